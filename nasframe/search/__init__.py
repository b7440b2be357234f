"""Search: domains, bounds, Pareto fronts, costs and the loop; numpy only, never torch."""
