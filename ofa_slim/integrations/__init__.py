"""Bridges to other libraries; each imports the library it is named after only when it is used."""
