"""What happens to every kind of picture: the table of docs/inputs.md, row by row, on files made here."""
