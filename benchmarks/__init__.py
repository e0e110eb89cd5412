"""What Consilium costs and gives, measured; a package, because other distributions install one of the same name."""
