"""What every operator costs: timed (seconds, memory) and tracked (T, ratio to eager, fraction of the copy bandwidth).

There is no list here: formulas, implementations and sizes come from the declarations in properties/.
"""
