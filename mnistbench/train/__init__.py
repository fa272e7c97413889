"""One cell is trained and measured."""
