"""Model card of an export: README.md for people, with the front matter of the Hugging Face Hub."""
