"""The sample-efficiency lab: experiments of many runs, and their comparison over seeds."""
