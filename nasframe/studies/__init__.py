"""Studies: arms by seeds of one recipe, and the paired statistics that compare them."""
