"""The E-step and M-step of each kind of data: complete, streamed, with missing cells."""
