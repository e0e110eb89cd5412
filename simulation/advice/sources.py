"""Where advice comes from: papers, and what was measured with this program."""

FED3R = "Fanì et al. 2024, arXiv 2406.01116; He et al. 2024, arXiv 2405.16240"
SCAFFOLD = "Karimireddy et al. 2020, arXiv 1910.06378"
FEDNOVA = "Wang et al. 2020, arXiv 2007.07481"
FEDAVG = "McMahan et al. 2017, arXiv 1602.05629"
NON_IID = "Hsu et al. 2019, arXiv 1909.06335"
FEDBN = "Li et al. 2021, arXiv 2102.07623"
HEAD2TOE = "Evci et al. 2022, arXiv 2201.03529"
LINEAR_FIRST = "Kumar et al. 2022, arXiv 2202.10054"
TRANSFER = "Kornblith et al. 2019, arXiv 1805.08974"
MEDICAL_TRANSFER = "Raghu et al. 2019, arXiv 1902.07208"
RIDGE = "Hastie, Tibshirani and Friedman 2009, The Elements of Statistical Learning, section 18.3"
PROJECTION = "Achlioptas 2003, Journal of Computer and System Sciences 66:671"
KRUM = (
    "Karimireddy et al. 2022, arXiv 2006.09365; measured on chest X-rays (consilium compare --rows krum,fedavg --seeds 3): "
    "AUROC 0.41 against 0.96"
)
BALANCE = "King and Zeng 2001, Political Analysis 9:137"
PRECISION_RECALL = "Saito and Rehmsmeier 2015, PLoS ONE 10:e0118432"
INTERVALS = "Hanley and McNeil 1982, Radiology 143:29"
RESOLUTION = "Sabottke and Spieler 2020, Radiology: Artificial Intelligence 2:e190015"
MULTILEVEL = (
    f"{HEAD2TOE}; measured on chest X-rays (benchmarks/feature_choices.py, 5 seeds): AUROC 0.960 with the last stage, 0.965 "
    "with all"
)
POOLING = "measured on chest X-rays (benchmarks/feature_choices.py, 5 seeds): AUROC 0.965 with the means, and with both"
DEEP_GAIN = "measured on chest X-rays (benchmarks/deeper_tuning.py): the last blocks gain with 0.0001, not with 0.002"
DEEP_COST = (
    "measured on chest X-rays (benchmarks/deeper_tuning.py): six rounds over the last four blocks take 25 times the time of the "
    "closed-form head on two cores, for 0.004 more validation AUROC"
)
HERE = "measured here"
STATED = "stated in the inventory"
COUNTED = "counted here"
