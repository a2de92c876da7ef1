"""Pure tensor functions: the formulas, with no graph, no stage and no module in sight."""
