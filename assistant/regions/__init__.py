"""What is where in a field: nuclei, glands, tissue regions and blood cells from one small network."""
