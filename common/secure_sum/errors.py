"""What stops a secure sum, on either side."""

from common.errors import FederationError


class SecureSumError(FederationError):
    """A session of a secure sum cannot go on, or one message of it is refused.

    The text holds no secret, no share and no number of any hospital's vector. about: the hospital whose message was wrong, if
    it is one hospital's; None also where the coordinator itself is to blame.
    """

    def __init__(self, reason: str, about: str | None = None) -> None:
        super().__init__(reason)
        self.about = about
