"""`GeneralMLR`: multilevel low rank matrices that need not be square or symmetric."""
