"""Programs of the house: what is made from the migrations, mutations, and the release."""
