"""The cells: a module a family, with its specs, its weights and its functions. `families` lists them."""
