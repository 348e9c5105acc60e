"""Still more wording for training, in the voices of many people; patterns as in ``tool_phrases_wide``, which joins them.

Terse notes, long and polite sentences, wording of people whose first language is another, orders, questions, remarks
with an order behind them. Written for the situations in which the first fresh set was planned wrongly.
"""

# ruff: noqa: E501 - a pattern stays on one line
from __future__ import annotations

_SIR = "(Would you be so kind as to|Would you mind to|I'd appreciate it if you could|May I ask you to|Be a dear and|You should|I must ask you to|Let us|Time to|Next step:|Job for you:|Now|We would like you to|Try to|I wish to|It would help me if you could)"
_LONG = "(For the study protocol|For our audit|For tomorrow's slide seminar|Since the referring doctor insists|For the multicentre trial|For my thesis|In order to fill in the form|To complete the data sheet|Because reviewer two asked)"
_WHO = "(My professor|The attending|Our biologist|The statistician|The clinician|The trial office|My flatmate|The surgeon|Our lab head)"
_WANTS = "(wants to know|is asking for|would like to have|needs|keeps asking for|requires|insists on|is waiting for)"
_NUC = "(nuclei|cell nuclei|nucleus profiles|cells|nuclear profiles)"
_GL = "(glands|crypts|glandular structures|gland profiles|tubules|acini)"
_RBC = "(red cells|erythrocytes|RBC|RBCs|red blood cells|white cells|leucocytes|leukocytes|WBC|WBCs|white blood cells|platelets|thrombocytes|PLT)"

MORE: dict[str, tuple[str, ...]] = {
    "segment_nuclei": (
        f"{_SIR} (count|segment|measure|outline|enumerate) the {_NUC} (for me|in {{img}}|shown|on display|that you find|)",
        f"{_LONG}(,|) (we need|I need|they want|we must report|it takes) the (number of nuclei|nuclear count|mean nuclear area|nuclear density|cell count|nuclear diameter) (of|in|for) {{img}}",
        f"{_WHO} {_WANTS} the (nuclear count|number of cells|cell density|average nuclear size|nuclei number|nuclear shape values)(| here| of {{img}})",
        f"(#|no. of|nr of|num|total of|sum of|n of) {_NUC}(| here|?|, pls| in {{img}})",
        "(nuc|nuclear|cell) (cnt|count|dens|density|seg|stats|morpho)(?| pls| please| now| for {img}| asap)",
        f"(How much|How many of|What quantity of|Which number of) {_NUC} (it has|are having|do have|there is|can you find) (in {{img}}|here|inside)?",
        f"(I try to count|I was trying to count|I cannot count|I gave up on counting|I am too lazy to count|There are too many to count:|I am bad at counting) (the|these|all) {_NUC}(. Help|, can you do it|; you do it please|. What do you get|, so please count)",
        "(polygons|contours|outlines|masks|instances|boundaries|GeoJSON) (of|for) (the nuclei|all nuclei|each nucleus|every cell nucleus)(, please| in {img}|?|)",
        "(Export|Produce|Create|Generate|Hand me|Get me|Fetch|Draw) (the|) (nuclear outlines|nuclei contours|nuclear masks|cell contours|boundaries of the nuclei|an outline for each nucleus)(| for {img}| as GeoJSON| please| as an overlay)",
        "(Mean|Average|Median|Typical) (nuclear|nucleus|nuclei) (area|size|diameter|roundness|eccentricity)(?| here?| in {img}| please|, in pixels)",
        f"(Is it true that|Can one say that|Would it be fair to say|Do I see it right that) there are (more than|over|fewer than|about) {{num}} {_NUC} (in {{img}}|here)? (Count|Check by counting|Count them|Figures please)",
        "(Cell|Nuclear) density(:|,) (what is it|a number please|how high|give a figure|value|in nuclei per field)(?|)",
        "(And|And now|Now|Next|Then) (the|for the|what about the) (nuclei|nuclear count|number of nuclei|cell count|nuclear size)(?|, please)",
        f"(If I counted|Were I to count|When you count) (all|) the {_NUC}, (what would I get|how many would there be|what is the total|where do you end up)?",
        "(A|One) (number|figure) (for|describing) (the cellularity|how cellular it is|the nuclear density|the nuclear size) (is all I need|would be great|please|of {img})",
        "(Do|Perform|Carry out|Execute|Start) (a|the) (nuclear|nucleus|nuclei|cell) (count|segmentation|morphometry|measurement|quantification)(| please| on {img}| for me)",
        "How (many|numerous) (lymphocytes|plasma cells|cells|tumour cells|fibroblasts|cell nuclei) (per field|in total|altogether|all in all|would you count)?",
        "(Estimate|Guess|Approximate) (how many nuclei there are|the number of nuclei|the nuclear count|the cell number) (by segmentation|with your tool|in {img}|)",
        "(Can|Could) the nuclei (be counted|be measured|be segmented|be outlined) (here|in {img}|for me|please)?",
        "(I'd say|We think|It looks like) (it is crowded|there are a lot of nuclei|nuclei are sparse)(. Give the exact count|; put a number to it|, how many are there)?",
    ),
    "segment_nuclei+mpp": (
        "({mpp} um/px|{mpp} microns a pixel|{mpp} µm pixel size)(:|,| -) (nuclei per mm2|nuclear density|how many nuclei per square mm|nuclear area in µm²|mean nuclear size)(?| please|)",
        f"{_LONG} (I need|we need) nuclei per mm² (in|of) {{img}}; (one pixel is|the scan has|pixels are) {{mpp}} (µm|um|microns)",
    ),
    "segment_glands": (
        f"{_SIR} (count|segment|measure|outline|delineate) the {_GL} (for me|in {{img}}|shown|on display|that you find|)",
        f"{_LONG}(,|) (we need|I need|they want|we must report) the (number of glands|gland count|mean gland area|gland density|crypt count|luminal area of the glands|glandular fraction) (of|in|for) {{img}}",
        f"{_WHO} {_WANTS} the (gland count|number of crypts|gland density|average gland size|crypt number|lumen area of the glands)(| here| of {{img}})",
        f"(#|no. of|nr of|num|total of|sum of|n of) {_GL}(| here|?|, pls| in {{img}})",
        "(gland|crypt|glandular) (cnt|count|area|seg|segmentation|stats|statistics|morphometry|numbers)(?| pls| please| now| for {img}| asap)",
        f"(How much|How many of|What quantity of|Which number of) {_GL} (it has|are having|do have|there is|can you find) (in {{img}}|here|inside)?",
        f"(I try to count|I was trying to count|I cannot count|I gave up on counting|I always miscount|I am bad at counting) (the|these|all) {_GL}(. Help|, can you do it|; you do it please|. What do you get|, so please count)",
        "(polygons|contours|outlines|masks|instances|boundaries|GeoJSON) (of|for) (the glands|all crypts|each gland|every gland|the glandular structures)(, please| in {img}|?|)",
        "(Export|Produce|Create|Generate|Hand me|Get me|Fetch|Draw) (the|) (gland outlines|crypt contours|gland masks|gland boundaries|an outline for each gland)(| for {img}| as GeoJSON| please| as an overlay)",
        "(Mean|Average|Median|Typical|Total) (gland|crypt|glandular|luminal|gland lumen) (area|size|diameter|roundness|width)(?| here?| in {img}| please|, in pixels)",
        f"(Is it true that|Can one say that|Do I see it right that|Would you confirm that) there are (more than|over|fewer than|about) {{num}} {_GL} (in {{img}}|here)? (Count|Check by counting|Count them|Figures please)",
        "(What percentage|How big a share|How many percent|Which portion) of (the area|the picture|the mucosa|{img}) (is taken by|is covered with|goes to|belongs to|is occupied by) (glands|crypts|glandular tissue)?",
        "(And|And now|Now|Next|Then) (the|for the|what about the) (glands|gland count|number of crypts|crypts|gland size)(?|, please)",
        "(Do|Perform|Carry out|Execute|Start) (a|the) (gland|crypt|glandular) (count|segmentation|morphometry|measurement|quantification)(| please| on {img}| for me)",
        "(Can|Could) the (glands|crypts) (be counted|be measured|be segmented|be outlined|be delineated) (here|in {img}|for me|please)?",
        "(Glands|Crypts)(:|,) (how many|number|count and size|how large|what number do you arrive at|total and mean area|please count)(?|)",
        f"(If I counted|Were I to count|When you count) (all|) the {_GL}, (what would I get|how many would there be|what is the total|where do you end up)?",
        f"(Give each of|Put a number on each of|Number|Trace|Draw round|Circle all) the {_GL}(| in {{img}}| so that I can see them| please)",
        "(I'd like|We want|Let me have) (to know how many glands there are|to have the glands counted|the glands measured|each gland outlined|figures on the crypts)(| please| in {img})",
    ),
    "segment_tissue": (
        f"{_SIR} (measure|determine|estimate|work out|map) the (tumour area|tumour percentage|stromal share|stroma content|epithelial area|tumour fraction) (for me|of {{img}}|in percent|)",
        f"{_LONG}(,|) (we need|I need|they want|we must report|it takes) the (tumour percentage|tumour content|stromal percentage|tumour-stroma ratio|epithelial fraction|percentage of tumour area) (of|in|for) {{img}}",
        f"{_WHO} {_WANTS} the (tumour percentage|tumour content|stroma ratio|tumour-stroma proportion|area of tumour|tumor purity)(| here| of {{img}})",
        "(tumour|tumor|tu|stroma|epithelium|cancer) (%|percent|pct|fraction|content|share|area|proportion)(?| pls| please| here| in {img}| for sequencing| for DNA extraction|, roughly)",
        "(How much percent|How many % |What per cent|Which percentage|What part) (of tumour|of stroma|of epithelium|tumor|stroma|connective tissue) (it has|there is|is in {img}|do we have|are there)?",
        "(Before|For) (DNA extraction|molecular testing|NGS|sequencing|PCR|macrodissection)(,| I need to know| please tell me) (how much of {img} is tumour|the tumour share|the tumour percentage|what the tumour content is)",
        "(Make|Draw|Produce|Create|Give me|Render) (me|) (a|an) (map|overlay|mask|colour map|heat map|picture) (of|with|showing) (the tumour and the stroma|tumour against stroma|tissue compartments|the tumour area|epithelium and stroma)",
        "(Proportion|Ratio|Relation) (of|between) (epithelium and stroma|tumour and stroma|tumour to stroma|cancer to connective tissue|malignant to normal tissue)(?| please| in {img}| in numbers)",
        "(Does|Would) (the|) (tumour|stroma|epithelium|cancer|connective tissue) (make up|cover|take up|fill) (more|less) than {num} (percent|%) (of {img}|here)?",
        "(And|And now|Now|Next|Then) (the|for the|what about the) (tumour area|stroma share|tumour percentage|stroma|tumour content)(?|, please|, in percent)",
        "(Colour|Paint|Tint|Shade|Mark) (in|) (tumour and stroma in two colours|all the tumour area|the stroma|tumour and non-tumour differently|every tissue class)(| in {img}| please)",
        "(Do|Perform|Carry out|Execute|Start) (a|the) (tissue segmentation|tumour segmentation|stroma quantification|tumour area measurement|tissue mapping)(| please| on {img}| for me)",
        "(Where does the tumour end and the stroma begin|Where is tumour and where is stroma)? (Segment|Map it|Draw the areas|Give the shares)",
        "(Tumour|Stroma|Epithelium|Cancer)(:|,) (how much of the area|how many percent|what share of the field|what fraction|percentage please)(?|)",
        "(Quantify|Measure|Determine|Calculate) (how much stroma there is|how much tumour there is|the desmoplastic stroma by area|the epithelial compartment|the amount of tumour|tumour versus normal tissue)(| in {img})",
        "(Split|Divide|Break down|Partition) {img} (into|by) (tumour, stroma and the rest|tissue type|tumour and stroma|compartments)(| and give me the areas| with percentages|)",
        "(What|How much) (area|surface|share) (do you assign|would you give|goes) to (tumour|stroma|cancer|epithelium|normal mucosa)(?| in {img}?)",
        "(Is|Was) there enough tumour (in {img} |)for (molecular testing|sequencing)? (Measure the share|What percentage is it|I need the figure)",
    ),
    "classify_tissue": (
        f"{_SIR} (classify|name|sort|label|identify) (the|this) (colon polyp|colorectal biopsy|polyp of the bowel|colonic tissue|rectal polyp|large bowel specimen)(| for me)",
        "(polyp|biopsy|tissue|specimen|piece) (from|of|ex) (the|) (colon|rectum|sigmoid|ascending colon|descending colon|transverse colon|large intestine|caecum|large bowel|hepatic flexure)(, type|: class|, what kind|. Which class|, please classify|: adenoma or not)?",
        "(Bowel endoscopy|Endoscopy of the colon|Colon screening|Rectal biopsy|Colectomy)(:|,|.) (which polyp class|what lesion is it|type of polyp|adenoma, serrated or normal|what does the classifier say)(?|)",
        f"{_WHO} {_WANTS} the (polyp class|type of the colon polyp|colorectal class|class of this colonic lesion)",
        "(Which|What) of the (polyp types|colorectal classes|five colon classes|colon categories) (is it|is this|does it belong to|fits|would you choose)?",
        "(Let|Have) (your|the) (colon|colorectal|polyp|tissue) (model|classifier|network) (decide|look at it|have a go|give its class|tell us what it is)",
        "(Tubular|Villous|Serrated|Hyperplastic), (villous|tubular|serrated)( adenoma|)( or|,) (serrated|normal|cancer)(: the colon polyp|? It is from the colon|? Colon polyp|, which one is this colorectal polyp)",
        "(And|Now|Next|Then) (the|) (colon polyp|colorectal tissue|rectal biopsy)(: which class| - what type|, please classify|, its class)(?|)",
        "(I have|Here comes|We got|Attached is) (tissue|a piece|a biopsy) from (colon|rectum|large bowel|the sigmoid)(, please classify it| and I need the class|; what class|. Put it into a class)(?|)",
    ),
    "classify_cervical_cell": (
        f"{_SIR} (classify|grade|label|name) (the|this) (cervical cell|cell of the Pap smear|Pap cell|cell from the cervix|squamous cell of the smear)(| for me)",
        "(pap|cervix|cervical|gyn cytology|cervical smear|LBC) (cell|smear cell|cytology)(: class|, class|, grade|: which type| - normal or not|, dysplastic or not|: classify|, what grade of dysplasia)(?| pls| please|)",
        "(A|One|Single|This is one|Here you see a) (cell|squamous cell|epithelial cell) (from|out of|of) (a|the|our) (Pap smear|cervical screening|cervical cytology|gynaecological smear|cervix)(. Which class|; dysplasia or not|: normal|. How would the classifier grade it|, which category|. NILM, LSIL or HSIL)?",
        "(Which|What) (Herlev|dysplasia|cytology|Pap|cervical) (class|category|grade|group|label) (has this cell|does it get|fits|would the classifier give|is right for this cell|applies)?",
        f"{_WHO} {_WANTS} the (class of this cervical cell|Herlev category|grade of the Pap smear cell|dysplasia grade of the cervical cell)",
        "(Normal|LSIL|HSIL|NILM|Dysplastic|Benign)(,| or) (HSIL|abnormal|LSIL|dysplastic|malignant)(: this cervical cell|, the cell in this Pap smear| - what is the Pap cell|? The cell is from the cervix)?",
        "(Let|Have) (your|the) (cervical|Pap|cytology) (model|classifier|tool|network) (decide|look at the cell|grade it|give its class|tell us what it is)",
        "(What|Which) (does|class does) (the|your) (cervical cell classifier|Pap smear model|cytology classifier) (say|give|think|come up with|predict)(?| here?| for this cell?)",
        "(In|On) this (Pap test|cervical smear|cytology picture) (is the cell dysplastic|which cell type is it|is it a normal squamous cell|what grade has the cell|which class has the cell)?",
        "(Is|Could|Might) (the|this) (cell of the cervix|cervical squamous cell|cell from the Pap smear) (be|) (a mild|a moderate|a severe|an in situ) (dysplasia|lesion|change)?",
        "(And|Now|Next|Then) (the|) (cervical cell|Pap smear cell|cervix cytology)(: which class| - what grade|, please classify|, its category)(?|)",
        "(Grade|Assess|Judge|Score|Categorise) (the degree of dysplasia|how dysplastic it is|the abnormality) (of this|in this|for this) (cervical cell|Pap cell|cell from a cervical smear)",
    ),
    "detect_blood_cells": (
        f"{_SIR} (count|detect|box|enumerate|find) the {_RBC} (for me|in {{img}}|on the smear|on display|that you find|on the film|)",
        f"{_LONG}(,|) (we need|I need|they want|we must report) the (number of red cells|platelet count|white cell differential|leucocyte count|RBC number|counts of all blood cells) (of|in|for) {{img}}",
        f"{_WHO} {_WANTS} the (platelet number|red cell count|differential|white cell type|leucocyte count|type of this leukocyte)(| here| of {{img}}| on the smear)",
        f"(#|no. of|nr of|num|total of|amount of|quantity of|n of) {_RBC}(| here|?|, pls| in {{img}}| on the film| on the blood smear| visible)",
        "(rbc|wbc|plt|thrombo|ery|leuko|platelet|diff|differential|blood) (cnt|count|nr|number|type|please|pls)(?| pls| please| now| for {img}| asap)",
        f"(How much|How many of|What quantity of|What amount of|Which number of) {_RBC} (it has|are having|do have|there is|can you find|are on display|is visible|you can see) (in {{img}}|here|on the smear|in the film)?",
        f"(I try to count|I cannot count|I gave up on counting|I always miscount|I am bad at counting) (the|these|all) {_RBC}(. Help|, can you do it|; you do it please|. What do you get|, so please count)",
        "(And|And now|Now|Next|Then) (the|for the|what about the) (red cells|platelets|white cells|erythrocytes|differential|leucocyte type|thrombocytes)(?|, please|, how many)",
        "(Do|Perform|Carry out|Execute|Start) (a|the) (blood cell|leucocyte|red cell|platelet|white cell) (count|differential|detection|enumeration)(| please| on {img}| for me)",
        "(That|This|The) (white cell|leucocyte|leukocyte|WBC|granulocyte|nucleated cell|big purple cell|cell with granules|round blue cell|blood cell) (is what type|is which one|what is it|of which type is it|belongs to which class|what kind is it)?",
        "(Which|What) (type|kind|sort) (has|is) (the|this|that) (white cell|WBC|leukocyte|leucocyte|granulated cell|white cell with pink granules|mononuclear blood cell)?",
        "(Eosinophil|Basophil|Monocyte|Lymphocyte|Neutrophil|Segmented neutrophil|Band)( or not|?)(: this white cell| - the blood cell here| The white cell I mean|, that leucocyte on the film)?",
        "(Blood film|Blood smear|Peripheral blood|Haematology|May-Grünwald smear|Wright stain, blood)(:|,|.) (count everything|numbers of red cells, white cells and platelets|how many platelets|RBC and WBC number|which leucocyte|differential please|type of the white cell|are there platelets and how many)(?|)",
        "(Are|Is) there (any|enough|many|a lot of) (platelets|thrombocytes|white cells|leukocytes) (on the smear|on the film|in {img})(, and how many|? Count| - how many|? I want the number)?",
        "(Red|White) (cells|blood cells)(:|,| -) (how many|number|count|what number do you arrive at|please count|total)(?|)",
        "(red cells|erythrocytes|RBC|platelets|leucocytes) (and|versus|against|plus|/) (white cells|leukocytes|WBC|thrombocytes)(: how many of each|, counts please|: the numbers|, count both)(?|)",
        "(Put|Draw) (a box|boxes) (on|around) (all|every one of|each of) the (red cells|white cells|blood cells|platelets|erythrocytes)(| and count them| in {img})",
        "(Let me know|Inform me about|Report to me|Say) (the number of platelets|how many white cells there are|the quantity of red cells|what leukocyte it is|which white cell this is|how many thrombocytes you see)(| please| on this smear)",
    ),
    "score_ihc": (
        f"{_SIR} (score|evaluate|quantify|read) the (Ki-67|immunostain|ER stain|PR stain|DAB stain|p53 stain|IHC|nuclear staining) (for me|of {{img}}|in percent|)",
        f"{_LONG}(,|) (we need|I need|they want|we must report) the (Ki-67 index|proliferation index|H-score|percentage of positive nuclei|ER percentage|labelling index) (of|in|for) {{img}}",
        f"{_WHO} {_WANTS} the (Ki-67 index|proliferation index|H-score|share of positive cells|ER status in percent|MIB-1 index|positive nuclei in percent)(| here| of {{img}})",
        "(ki67|ki-67|KI 67|mib 1|er|pr|p53|p63|ttf1|gata3|sox10|cd3|h-score|hscore) (%|percent|pct|idx|index|value|positive cells|pos nuclei|labelling)(?| pls| please| here| in {img}| now| asap|, roughly)",
        "(How much percent|How many %|What per cent|Which percentage|What part|Which share) of (the|) (nuclei|cells|tumour cells|tumor nuclei) (is|are) (brown|positive|stained|labelled|marked|reacting|immunoreactive|ER+|PR+|p53+|Ki-67+)(?| in {img}?| here?)",
        "(It is|This is|We have|Here is) (a|an) (ER|PR|Ki-67|p53|progesterone receptor|oestrogen receptor|androgen receptor|TTF-1|GATA3) (stain|immunostain|immuno|slide|staining)(; how many nuclei are positive|. What percentage reacts|, how many cells react|. Count the positive nuclei|; what is the positive share|. How many nuclei take the stain)(?|)",
        "(Positive|Brown|Stained|Labelled) (nuclei|cells|tumour nuclei)(:|,| -) (how many|percentage|count|what share|number and percent|what fraction)(?| please|)",
        "(And|And now|Now|Next|Then) (the|for the|what about the) (Ki-67|proliferation index|H-score|positive nuclei|ER percentage|immunostain)(?|, please|, in percent)",
        "(Do|Perform|Carry out|Execute|Start) (a|the) (Ki-67 count|H-score|IHC scoring|immunoscoring|quantification of the DAB stain|positive cell count|proliferation measurement)(| please| on {img}| for me)",
        "(Make|Calculate|Work out|Compute|Do) (the|an|a) (H-score|histoscore|Ki-67 index|labelling index|proliferation index|Allred-like percentage)(| of {img}| for me| from 0 to 300|, please)",
        "(Estimate|Count|Tally|Determine) (the share of brown nuclei|brown against blue nuclei|how many nuclei are brown|how many cells are positive|how many nuclei took up the stain|positive versus negative cells)(| in {img}| please)",
        "(Is|Was) the (proliferation|Ki-67|labelling) (above|below|over|under) {num} (%|percent)(?| here?| in {img}?) (Score it|Measure|Count|Your figure)",
        "(How|What) (is|does) the (proliferation|Ki-67|MIB-1 labelling|nuclear staining) (in numbers|come to in percent|amount to|reach here|measure)?",
        "(Breast|Neuroendocrine tumour|Lymphoma|Prostate|Core biopsy), (Ki-67|ER|PR|MIB-1|AR)(: what percentage|; percentage please|, how much is positive| - index|: score it)(?|)",
        "(I'd like|We want|Let me have) (the immunostain scored|the positive nuclei counted|figures for positive and negative nuclei|the Ki-67 worked out|the brown nuclei in percent|the H-score of this stain)(| please)",
    ),
    "score_ihc+membrane": (
        f"{_SIR} (score|evaluate|rate|grade) the (HER2|HER2 stain|HER2 slide|PD-L1|membrane stain|membranous reaction) (for me|of {{img}}|)",
        f"{_WHO} {_WANTS} the (HER2 score|HER2 category|TPS|PD-L1 score|membrane score|HER2 status)(| here| of {{img}})",
        "(her2|HER-2|her 2 neu|HER2 IHC|pd-l1|pdl1 tps|tps|cps)(: which score|, score|: score please|, category|, 0 to 3+| pls| value| result| here)(?|)",
        "(Where|At which point|In which class|At what level) (on|of) the (HER2 scale|HER2 scoring|scale from 0 to 3+) (is it|does {img} fall|would you put {img}|is {img}|do you place this)?",
        "(What|Which) (HER2|Her2|membrane|PD-L1) (category|class|level|grade|points) (would you assign|comes out|do you read|do we have here|results|applies to {img})?",
        "How (complete|intense|circumferential|strong) is the (membrane|HER2 membrane|membranous|HER2) (staining|reaction|signal)(?| in {img}?) (Category please|Score|Put it on the scale|Rate it|Which score|)",
        "(Zero|0|1+|2+|3+|Negative)(,| or) (1+|2+|3+|equivocal|positive)(: what is the HER2|, the HER2 here|? It is HER2|, which HER2 score fits)(?|)",
        "(Tumour cells|Cells) with (membranous|membrane) (PD-L1|HER2|) staining(: how many percent|, in percent|; count|: percentage)(?|)",
        "(And|Now|Next|Then) (the|) (HER2|PD-L1 TPS|membrane stain|HER2 score)(, please|: score|?)",
    ),
    "check_quality": (
        f"{_SIR} (check|verify|test|assess|rate) the (sharpness|focus|image quality|scan|technical quality|picture for blur) (for me|of {{img}}|first|)",
        f"{_WHO} {_WANTS} (a quality check|to be sure the scan is sharp|a focus check|a QC|the image quality)(| here| of {{img}}| first)",
        "(qc|quality|focus|sharpness|blur|artefacts|folds|pen marks)(, ok| ok| check| please| pls| fine|: how is it|: any)(?| here?| in {img}?)",
        "(Did|Has) (somebody|someone|the lab|anyone|the technician) (draw|drawn|write|written|leave|left|put|scribble|scribbled) (something |ink |a line |dots |)(on|onto) (the glass|the slide|the coverslip|{img})(| with a pen| with a marker)?",
        "(Is|Are|Do you see|Could there be|Do I see) (any |)(pen|marker|ink|felt-tip|fold|folds|bubble|dust|wrinkles|out-of-focus parts|a smear of ink)( marks| lines|) (on {img}|on the glass|that would disturb|that spoil {img}|in the scan)?",
        "(Is|Was) (the|this) (pic|picture|img|scan|shot|photo|file) (ok|good|fine|sharp|blurred|blurry|usable|in focus|too blurry|sharp enough|out of focus)(, quality wise| technically| for measuring| to work with|, what do you think|)?",
        "(sharp|blurred|usable|good enough)(,| or) (not|blurred|sharp|fuzzy|no)(?| - check| please check|: which is it)",
        "(What|Which) (magnification|power|objective|zoom)(?| is it| was used| do you estimate)(, 10x, 20x or 40x|; run the quality check|: 20x or 40x|? Check| by the quality tool| according to the check)?",
        "(Is|Was) (it|this|{img}) (scanned|taken|shot|photographed) (at|with) (a |)(10x|20x|40x|4x|high power|low power)(?| or 20x?| or 40x?) (Check|Find out|Take a look|Estimate it|What do you estimate)",
        "(How much|What part|What percentage|How many percent) of (the picture|{img}|the scan|the area) is (tissue|background|empty glass|blank|white space)?",
        "(I have|We have|I've got) (doubts|my doubts|a bad feeling|questions) about the (focus|scan|sharpness|quality|picture)(. Check|; please test|, could you look|. Is it alright)(?|)",
        "(Can|May|Should) (I|we|one) (work with|trust|go ahead with|measure on|publish|keep|rescan) {img}(, technically| from a quality point of view|, or is it blurred|; check the quality)?",
        "(Before|Prior to|Ahead of) (I start|the analysis|we begin|measuring|anything else)(:|,) (is the scan fine|check the quality|is it sharp|have the focus checked|test it for blur and folds|is the picture technically usable)(?|)",
        "(Looks|Seems|Appears) (a little |rather |somewhat |)(soft|fuzzy|hazy|blurred|unsharp|milky|out of focus)(, doesn't it|, or is it me|. Is it|, please check|, don't you think| to me)(?|)",
        "(And|Now|Next|Then) (the|) (quality|focus|sharpness|QC|scan quality)(?|, please|: is it ok)",
        "(Do|Perform|Carry out|Execute|Start) (a|the) (quality check|focus test|blur test|QC|technical check|quality control)(| please| on {img}| for me)",
        "(Fit|Good|Suitable|OK) for (measurement|analysis|a publication|counting)(, technically|, as to sharpness|, quality wise)?",
        "(Rule out|Exclude|Look for|Search for|Tell me about) (blur|pen marks|folds|artefacts|ink|scanning errors)(| in {img}| please| on the slide)",
    ),
    "normalise_stain": (
        f"{_SIR} (normalise|recolour|adapt|match|convert) {{img}} (to|towards|after|to the colours of) {{ref}}",
        "{img} (to|onto|->|=>|into) (the|) (stain|colours|staining|look) of {ref}(, please|, pls|)",
        "(The|) (colours|pink|blue|stain|staining) (of|in) {img} (is|are) (off|too strong|too weak|different|not good); (take those of {ref}|use {ref} as target|bring it to {ref}|make it like {ref})",
        "(Use|Borrow|Get) the (colours|stain|staining) of {ref} (and put it on|and apply it to) {img}",
        "(colour|color|stain) (norm|normalization|normalisation|match|transfer)(:|,|) {img} (with target|target|to|using|to match|reference) {ref}",
        "I('d like| want| would like| need) (the stain of|the colours of|) {img} (to be normalised|to be matched|brought|harmonised|converted) to {ref}(, please|)",
        "{ref} is (the reference|the standard|our target|well stained)(;|,|.) (normalise|recolour|correct|adapt) {img} (to it|accordingly|with it|that way)",
        "(Make|Get|Turn) {img} (in colour|in staining|as regards stain|) (equal to|the same as|like|similar to|match) {ref}",
        "(Harmonise|Equalise|Unify|Align) (the colours|the stain|stains) (of|between) {img} (with|and) {ref}",
        "(Would|Could) {img} (be normalised|be recoloured|be stain-matched|be brought) to {ref}?",
    ),
    "normalise_stain+method": (
        "{method} (norm|normalization|normalisation|stain transfer)(:|, | for ){img}( with | to |, to match ){ref}",
        f"{_SIR} (normalise|match) {{img}} to {{ref}} (with|by|using) {{method}}",
    ),
    "find_similar_cases": (
        f"{_SIR} (find|search for|look for|dig up|pull out) (similar|comparable|matching|like) (cases|examples|slides|fields) (for me|in the archive|to {{img}}|from our collection|)",
        f"{_WHO} {_WANTS} (similar cases|comparable cases from the archive|look-alikes|matching cases|other cases like it)(| to {{img}})",
        "(similar|comparable|alike|related|matching|look-alike|nearest) (cases|ones|slides|images|fields|pics)(, pls| pls|, anyone| in archive| in db| please| from the database|: show them|: search)(?|)",
        "(Is|Was) there (ever|already|in the past|in former years|once) (something|a case|anything) (like this|like {img}|that looks the same|so similar)(?| in our archive?| in the files?)",
        "(Search|Look through|Browse|Check|Scan|Consult|Go into|Look into) (the|our|my) (archive|database|library|collection|old cases|case files)(| for something like it| for the same picture| for cases of this kind| for matches| and show what is similar)",
        "(I would|I'd|We would|I) (like|love|want) to (compare|see|have) (it with |)(old cases|former cases|cases from the past|other examples|similar ones|what the archive has)(| that look the same| which resemble it| like this one)",
        "(Which|What) (old|stored|archived|earlier|previous) (cases|slides|patients|fields) (had|show|have|look) (the same picture|the same pattern|like this|similar|this way|a comparable picture)?",
        "(Get|Bring|Give|Show|List) me (the|some|a few|other|) (neighbours|look-alikes|similar ones|matches|cases of the same kind|comparable fields) (from the database|in the archive|from our collection|of {img}|from the library)",
        "(And|Now|Next|Then) (the|) (similar cases|archive|case search|look-alikes)(, please|?|: search)",
        "(Do|Perform|Carry out|Execute|Start) (a|the) (similarity search|archive search|case search|image search)(| please| with {img}| for me)",
        "(Anything|Something|Nothing) (like it|comparable|similar|alike) (on file|in the archive|in our database|in the collection|among the old cases)?",
        "(Use|Take) {img} as (the|a) (query|search image|example) (for|in) (the archive|a case search|the library|our collection)",
    ),
    "find_similar_cases+k": (
        "({k} nearest|{k} closest|top {k}|best {k}|{k} most alike)( cases| look-alikes| neighbours| hits| matches)( in the archive| to {img}|, please|)",
        f"{_SIR} (find|show|list) {{k}} (similar|comparable|matching) (cases|fields|examples)(| in the archive| to {{img}})",
        f"{_WHO} {_WANTS} {{k}} (similar cases|comparable cases|matches from the archive)",
    ),
    "find_similar_cases+text": (
        "(find|get|list|show) (slides|images|archived cases) (with|of|labelled) {text} that (resemble|are similar to|are close to) {img}",
        "(Are|Were) there (archived|old|earlier|stored) (cases|fields|slides) (with|of) {text} (that look like|resembling|similar to|close to) {img}?",
        f"{_SIR} (find|look for|search) (similar cases|comparable fields|archive cases) (with|of|showing) {{text}}",
    ),
    "ground_phrase": (
        f"{_SIR} (mark|box|show|frame|locate|point to) the {{phrase}} (for me|in {{img}}|)",
        "(where's|wheres|where is|where are|where do I find|where to look for|where can one see|whereabouts are|on what side is) (the|a|my|that|those|) {phrase}(?| pls| here?| in {img}?|, please)",
        "(mark|box|frame|circle|locate|highlight|find|show|point at|outline) (the|) {phrase}(| pls| please| for me| with a box|, would you|, will you)(?|)",
        "(Put|Draw|Set|Place) (a box|a rectangle|a frame|an arrow|a mark) (on|around|at|where) (the|) {phrase}( is|)(| please| in {img}| so I can find it)",
        "(Coordinates|Location|Position|Place|Bounding box|Box|Rectangle|Corner points) (of|for|around) (the|) {phrase}(?|, please|, pls)",
        "(I|We) (do not|can't|cannot|did not|couldn't) (find|see|spot|make out|identify) (the|any|a) {phrase}(; where|. Where|, help me find it|. Could you mark it|, show me please|. Can you box it)(?|)",
        "(Is|Are) (the|) {phrase} (left or right|at the top or at the bottom|near the edge|in the centre or at the side|on the left)? (Mark it|Box it|A box please|Draw a rectangle|Show me)",
        "(Can|Could) you (mark|point out|show|locate|box|indicate|highlight|find) (the|a|all|any) {phrase}(| for my students| if there is one|, if present| in {img}| please)?",
        "(Which|What) (corner|part|side|region|area) (of {img}|of the picture) (has|shows|contains|holds) the {phrase}?",
        "(And|Now|Next|Then) (the|) {phrase}(: where| - where is it|, where is it|: mark it|; box it)(?|)",
        "(To|For) (teaching|my lecture|the students)(,|) (mark|frame|highlight|box|point out) the {phrase}(| in {img})",
        "(Tell|Show|Explain to) me (where|on which side|in which corner) the {phrase} (is|are|can be found|lies|sits)(| in {img})",
    ),
}

#: Things to box: parts of tissue and cells, described as people do.
PHRASES: tuple[str, ...] = (
    "ulcer", "nerve bundle", "artery", "vein", "capillary", "lymph vessel", "muscle fibres", "smooth muscle", "cartilage",
    "bone", "adipose tissue", "fat cells", "collagen", "scar tissue", "mucin pool", "mucus", "keratin", "keratin whorl", "psammoma body",
    "calcified area", "haemosiderin", "melanin pigment", "brown pigment", "granuloma", "Langhans cell", "foreign body",
    "eosinophils", "mast cell", "macrophages", "foamy macrophages", "germinal centre", "lymphocytic infiltrate",
    "cluster of tumour cells", "tumour budding", "tumour border", "stromal reaction", "fibrous septum", "basement membrane",
    "surface epithelium", "squamous epithelium", "intestinal metaplasia", "crypt abscess", "branching crypt", "gland with necrosis",
    "cribriform gland", "gland on the far left", "smallest gland", "two fused glands", "round gland in the middle", "glands at the top right",
    "biggest nucleus", "palest nuclei", "row of nuclei along the edge", "elongated nucleus", "cluster of dark nuclei", "nuclei at the bottom",
    "prominent nucleolus", "apoptotic body", "atypical mitosis", "dividing cell", "ganglion cell", "Schwann cells", "epidermis", "hair follicle",
    "sebaceous gland", "sweat duct", "bile duct", "portal tract", "hepatocytes with fat", "glomerulus", "renal tubule", "alveolar wall", "bronchus",
    "thyroid follicle", "islet", "villus", "lamina propria", "submucosa", "muscularis mucosae", "serosa", "tumour at the lower left", "stroma between the glands",
    "necrotic zone", "haemorrhage", "oedema", "thrombus", "fibrin", "cyst", "red cell in the corner", "white cell in the centre", "platelet clump",
    "pair of red cells", "overlapping erythrocytes", "lobed nucleus", "koilocyte", "clue cell", "fungal hyphae", "bacteria", "parasite", "egg", "amoeba",
    "edge of the tissue", "fold", "air bubble", "empty space", "area without nuclei", "densest part", "most cellular area", "pale zone", "pink area",
)  # fmt: skip

#: More of what each tool gives, as a noun.
NOUNS: dict[str, tuple[str, ...]] = {
    "segment_nuclei": ("number of cells", "nuclear area", "nuclei number", "nuclear outlines", "cell density", "nuclear shape statistics", "nuclear count"),
    "segment_glands": ("gland number", "mean gland area", "gland outlines", "crypt area", "gland statistics", "luminal area of the glands", "count of the crypts"),
    "segment_tissue": ("tumour share", "tumor %", "stroma content", "tumour content in percent", "tumour purity", "stroma percent", "tumour to stroma ratio", "share of stroma"),
    "classify_tissue": ("type of the colon polyp", "colon polyp category", "polyp class of this colon biopsy"),
    "classify_cervical_cell": ("class of the cervical cell", "Herlev category", "dysplasia grade of the cervical cell", "category of the Pap cell"),
    "detect_blood_cells": ("number of platelets", "red blood cell number", "leukocyte count", "type of the white cell", "WBC and RBC counts", "thrombocyte number"),
    "score_ihc": ("Ki67 %", "proliferation index", "positive nuclei in percent", "MIB-1 index", "number of positive nuclei", "HER2 score", "TPS"),
    "check_quality": ("focus", "QC", "check for folds", "pen mark check", "image sharpness", "magnification", "check for blur"),
    "find_similar_cases": ("archive matches", "similar archive cases", "look-alikes", "nearest cases of the library", "comparable old cases"),
    "ground_phrase": ("place of the {phrase}", "rectangle around the {phrase}", "coordinates of the {phrase}"),
}  # fmt: skip

ONE: tuple[str, ...] = (
    "{0}", "{0} pls", "{0} now", "{0} of this one", "still need {0}", "{0} would be nice", "{0}, nothing else", "next: {0}", "only {0}",
    "I am after the {0}", "My list says: {0}", "Please to give the {0}", "Let's have the {0}", "{0} for the report please",
)  # fmt: skip
TWO: tuple[str, ...] = (
    "{0} and {1}", "{0} / {1}", "need {0} and {1}", "{0} then {1}", "I want the {0}; also the {1}", "{0} first, {1} second", "{0}, also {1}",
    "2 numbers please: {0} and {1}", "Please give me {0} together with {1}", "{0}, and after it the {1}", "To fill the form I need {0} and {1}",
    "What I need: {0}, {1}", "Missing: {0}, {1}", "{0} plus {1} pls", "The {0} please. And the {1}.", "both: {0}, {1}",
)  # fmt: skip
THREE: tuple[str, ...] = (
    "{0}, {1} and {2}", "{0} + {1} + {2}", "Three items: {0}, {1}, {2}", "I want {0}, {1} as well as {2}", "All of it: {0}; {1}; {2}",
    "need {0}, {1} and {2} pls", "a) {0} b) {1} c) {2}", "For the form: {0}, {1}, {2}.",
)  # fmt: skip
JOINTS: tuple[str, ...] = (
    "{0s}? {1}", "{0s}. {1}", "{0s} + {1l}", "{0s} & {1l}", "{0s}, also {1l}", "{0s} as well as this: {1l}", "When you have done this: {0l} do that: {1l}",
    "{0s}. Same image: {1l}", "two things. {0} {1}", "{0} Oh, and {1l}", "a) {0} b) {1}", "{0s} -> {1l}", "{0s}... and {1l}",
)  # fmt: skip
MADE: tuple[str, ...] = (
    "the outcome", "the version you made", "the adapted image", "that new picture", "the output image", "what you get", "the harmonised image",
)  # fmt: skip
CHAINS: tuple[str, ...] = (
    "{0s}. On that, {1l}", "{0s}, afterwards {1l}", "{0s} -> {1l}", "{0s}. When finished: {1l}", "Two steps: {0s}, {1l}", "{0s} before you do this: {1l}",
    "{0s}. Use it for this: {1l}",
)  # fmt: skip
DOUBTS: tuple[str, ...] = (
    "{} I suspect the scan is not good, so look at that too.", "{} The picture seems bad, please look into that as well.", "{} Should the value be odd, test the focus too.",
    "{} Have the image quality examined as well, to be safe.", "{} And was the scan sharp at all?", "{} Also tell me if blur is a problem.",
    "{} Since the scan may be poor, have its quality checked.", "{} And look whether the picture is blurred.", "{} The focus worries me; check it too.",
    "First see if the scan is any good. {}", "{} Are there folds or pen marks that could falsify it?", "{} PS: image quality ok?",
)  # fmt: skip
#: Claims to be checked by the tool.
CLAIMS: dict[str, tuple[str, ...]] = {
    "segment_nuclei": (
        "(I|We|The student) (counted|got|came to|arrived at) {num} (nuclei|cells)(. Is that right? Count|; please recount|, please count again|. Correct it if need be by counting|. Do it again|. Verify the number)",
        "(It is written|They wrote|The sheet says) {num} nuclei(. Recount|, I doubt it; count|. Count once more|; check the count)",
    ),
    "segment_glands": (
        "(I|We|The student) (counted|got|came to|saw) {num} (glands|crypts)(. Is that right? Count|; please recount|, please count again|. Verify by counting|. Do it again)",
        "(There is|There are|There isn't|There aren't) (no|only {num}|any|more than {num}) (glands|crypts|gland) (in it|here|in {img})(, right? Count|; verify by counting|. Count them to be sure|, correct? Please check the number)",
    ),
    "segment_tissue": (
        "(The form|The sheet|The request|My boss) (says|states|claims|gives) {num} (%|percent) (tumour|stroma|tumor)(. Measure it yourself|; I would like that measured|, please verify by measuring|. Does that hold? Measure)",
        "(Supposedly|Allegedly|They say) it is {num} (%|percent) (tumour|tumor|stroma)(. Measure it|. Does that hold|; check by area|, please measure)(?|)",
    ),
    "detect_blood_cells": (
        "(They told me|I heard|It is said) (the smear has|there are) (no|few|plenty of) (platelets|white cells|leukocytes)(. Is that so? Count|; count them|. Please count|, check the number)",
    ),
    "score_ihc": (
        "(The lab|The report|They|Pathology) (reported|wrote|gave|found) (Ki-67|MIB-1|ER|PR) {num} (%|percent)(. I doubt it, score it|; score it yourself|. Do your own scoring|. Please measure again|. Does your reading agree|; what is your value)(?|)",
    ),
    "check_quality": (
        "(I was told|Somebody said|The technician swears) (the image|{img}|the scan) is (perfectly sharp|fine|in focus|clean)(; test it|. Check|, please verify|. I doubt it, check)",
    ),
    "classify_cervical_cell": (
    ),
    "classify_tissue": (
    ),
}  # fmt: skip

#: Around a request.
FRAMES: tuple[str, ...] = (
    "{}", "{}", "{}", "{}", "{}", "{}", "pls {}", "{} pls", "{} thx", "please help: {}", "Excuse me, {}", "uh {}", "so {}", "hm, {}", "{} Regards", "Good day dear colleague. {}",
    "I hope you are fine. {}", "If I may ask: {}", "{} Thank you so much in advance for your help.", "Sorry for my English. {}", "Can you help? {}", "{} asap", "{} (urgent)",
    "- {}", "Q: {}", "now {}", "{} I have an exam tomorrow.", "{} Then I can go home.", "For teaching: {}", "btw {}", "and {}", "again: {}", "follow-up: {}",
    "We are preparing a talk. {}", "New patient. {}", "I am at the microscope. {}", "{} My boss is asking.", "Hello again. {}", "One last thing: {}",
)  # fmt: skip
