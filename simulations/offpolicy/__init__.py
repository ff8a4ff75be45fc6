"""What a log says about policies that did not write it: estimators, intervals, diagnoses."""
