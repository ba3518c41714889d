"""PaddleNLP, which is not there on every Python, and is imported only by what needs it."""

from __future__ import annotations

from ofa_slim.errors import MissingPackageError


def require_paddlenlp(purpose: str) -> None:
    """Imports PaddleNLP.

    Args:
        purpose: what needs it, for the error.

    Raises: MissingPackageError where it is not installed.
    """
    try:
        import paddlenlp  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "paddlenlp":
            raise
        raise MissingPackageError(
            f"{purpose} needs PaddleNLP, which is not installed: pip install 'paddlenlp==2.8.*', "
            "on Python 3.10, 3.11 or 3.12"
        ) from error
