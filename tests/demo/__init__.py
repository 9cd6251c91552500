"""`make demo`: a tour of keylatch on a stack of its own."""
