"""The operator table and its algebra: in which operands an op is linear, and how it is carried to a code."""
