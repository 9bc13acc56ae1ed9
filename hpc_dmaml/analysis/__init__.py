"""Result files to tables, figures and a report. Needs pandas, SciPy, Matplotlib and Jinja2, and neither MPI nor torch."""
