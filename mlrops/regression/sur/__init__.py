"""Systems of regression equations whose errors share factors, or a tree of them."""
