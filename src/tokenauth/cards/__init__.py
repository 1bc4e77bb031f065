"""Smart cards: which kind a card is, which PKCS#11 module serves it, and how to get that."""
