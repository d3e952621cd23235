"""Parts of the study `when_search_pays.py`: questions, models, pools of samples, searches, figures."""
