"""Bridges for scripts that were written for other libraries; nothing else in the package imports them."""
