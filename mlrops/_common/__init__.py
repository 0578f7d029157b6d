"""What every room uses: words, argument checks, labels, frames, warnings."""
