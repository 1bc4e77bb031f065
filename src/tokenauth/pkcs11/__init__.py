"""PKCS#11: the modules there are, the tokens in them, and what their keys can do."""
