"""Differential privacy, per patient: what noise an (epsilon, delta) needs, how a patient is bounded, and two ways to a head.

gaussian, accounting   from (epsilon, delta) to the size of the noise, and back
noise                  the noise itself, exact, from the operating system's secure generator, in shares
per_patient            all images of a patient bounded as one
private_features       bounded features and their noised centre: what comes first, and what it spends
noisy_sums             (a) the closed-form head from one release of noised sums
gradient_descent       (b) the iterative head from noised sums of clipped gradients

Two more ways are not here: `client.local_dp_sgd` (local DP-SGD: all the noise from each hospital, no trust in anyone), and
`server.central_dp` (a whole hospital is protected, by the coordinator; for hundreds of hospitals).

Neighbours, everywhere here: two federations are neighbours if one has one patient more, with all images that this patient has
at one hospital (add or remove). What epsilon covers is said in `common.dp.accounting`.
"""
