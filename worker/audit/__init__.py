"""The checker: reads what went in and what came out, and says what is missing, double, out of order or changed."""
