"""The controlled study: worlds in which every step's true value is known in, how well each training signal finds it out."""
