"""What a data set is like: measures that read text alone, and the report made of them."""
