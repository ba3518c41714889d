"""Which release of PaddleNLP the tests run with."""

from importlib.metadata import PackageNotFoundError, version


def paddlenlp() -> str:
    """Its version; "" where it is not installed."""
    try:
        return version("paddlenlp")
    except PackageNotFoundError:
        return ""


PADDLENLP_3 = paddlenlp().startswith("3")
