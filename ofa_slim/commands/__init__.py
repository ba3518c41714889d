"""The commands of `ofa-slim`, by what they work on; each module is imported when one of its commands runs."""
