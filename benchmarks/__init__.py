"""One script a question; README.md lists them."""
