"""Tables, figures and reports of result files. Needs pandas, SciPy, Matplotlib and Jinja2; neither MPI nor torch."""
