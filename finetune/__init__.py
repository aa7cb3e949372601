"""Recognition: labelled clips, class schemes, heads on a pretrained encoder, honest leave-one-subject-out, reports.

`finetune.loso.run(config)` is the whole of it; `finetune.metrics.scores` the figures; `finetune.heads.create` the
recognisers. Importing this package itself imports nothing heavy.
"""
