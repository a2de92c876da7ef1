"""HTML and SVG of plain values: elements, tables, bars, lines.  Everything that comes from outside is escaped."""
