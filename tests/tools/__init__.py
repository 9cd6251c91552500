"""Programs for maintainers: they generate files from the migrations, try mutations and release."""
