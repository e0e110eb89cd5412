"""Secure sums: the coordinator learns the sum over hospitals of their numbers, and of no hospital its own.

Double masking with pairwise and self masks and Shamir shares. Source: Bonawitz et al. 2017, Practical Secure Aggregation for
Privacy-Preserving Machine Learning, CCS, figure 4 (with signatures and consistency check, against a coordinator that lies).

    terms        what a session is about, its threshold, its phases; subject: what is summed
    roster       the hospitals' node keys, by which they know each other
    layout       named arrays as one vector of whole numbers, and back; range and norm
    primitives   shares and encryption, by Flower's modules: the one file here that imports flwr
    masks        keystreams, added to a vector
    shares       what one hospital deals to another
    messages     the phases' messages, entry by entry; rows: bytes as arrays
    acceptance   what a hospital checks before it goes on
    once         what a hospital has opened already
    participant  the hospital's side of one session
    recovery     from shares to secrets, and the masks off
    combiner     the coordinator's side of one session

What is protected, and what is not: `docs/adr/0017-secure-sum.md`.
"""
