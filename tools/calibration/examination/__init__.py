"""The examination of the verifier: programs that are known to be right or wrong, judged as a user's would be."""
