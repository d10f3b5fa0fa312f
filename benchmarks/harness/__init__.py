"""How to measure, against what, and which targets there are."""
