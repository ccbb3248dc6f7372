"""The reader: the emergence curve and the sentences of a trace on one axis.

One set of scripts serves the explorer's pages (`component.reader`, `component.pair`), notebooks
(`display.display`) and files that open without a server (`page.page`). All of them are given the
same plain value, made by `explorer.payload.payload`, of JSON types only and always the same
bytes for the same input:

``trace title headline note``   id and words; already made visible, put in with ``textContent``
``facts``       cards of the header: alarm, said, action or why there is none; how sure
``begin end``   tokens of the generation; every position is a token of the trace
``axis``        ``[from, to]`` in tokens: what the curve spans; ``[begin, end]`` unless paired
``prompt``      its text
``sentences``   ``[start, stop, channel, text, cuts]``; ``cuts`` are the lengths of its tokens
``scores``      one a sentence; None is *no score*, drawn hatched and never as 0
``range threshold over``   of the scores; the sentences at or over the threshold by index
``marks``       of alarm, said and action those that there are: ``{token, sentence, lead}``
``folds``       calm stretches, ``[first, last + 1, highest score]``
``focus``       the sentence at which it opens
``beside``      curves of other detectors: ``{name, kind, scores, range, threshold, over}``; the
                kind ``probability`` is drawn in the lane of probabilities, ``detector`` beside
                the scores with its threshold on theirs
``oracle``      ``{name, points: [[token, p, lower, upper, n]]}`` or None
``layers``      ``{shown, rows: [{layer, threshold, range, scores, over}]}`` or None
``steps``       of agents: what stands between sentences, made by ``explorer.turns``:
                ``[sentence, kind, title, text, violating]``
``turns``       of agents: the first token of each model call

Two traces are compared by ``component.pair(left, right, origins=(a, b), key=...)``: the tokens
`a` and `b` are drawn one above the other, and a move in one moves the other to the same place,
or, with ``by_turn``, to the same place of the same turn.
Two detectors on one trace are one trace with the second in ``beside``.
"""
