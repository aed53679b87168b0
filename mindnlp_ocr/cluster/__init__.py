"""Several processes of one run, as msrun starts them."""
