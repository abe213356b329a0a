"""What a trained network does, drawn and tabulated: one command per figure or table of the papers."""
