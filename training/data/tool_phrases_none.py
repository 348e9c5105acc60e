"""More requests that need no tool, though most use a tool's words; patterns as in ``tool_phrases_wide``.

Knowledge, talk about an earlier answer, about the program, about reports and letters; reading a picture without
measuring; orders not to measure; small talk.
"""

# ruff: noqa: E501 - a pattern stays on one line
from __future__ import annotations

_MARKER = "(Ki-67|MIB-1|HER2|ER|PR|PD-L1|p53|p16|S100|CD20|CD3|TTF-1|HMB-45|synaptophysin|cytokeratin 7)"
_SCORE = "(H-score|Ki-67 index|HER2 score|TPS|CPS|Allred score|proliferation index|tumour-stroma ratio|nuclear grade|Gleason score)"
_CELL = "(neutrophil|eosinophil|basophil|monocyte|lymphocyte|plasma cell|macrophage|platelet|erythrocyte|mast cell|megakaryocyte|reticulocyte|blast)"
_CELLS = "(neutrophils|eosinophils|basophils|monocytes|lymphocytes|plasma cells|macrophages|platelets|erythrocytes|red cells|white cells|leucocytes|blasts|reticulocytes)"
_POLYP = "(tubular adenoma|villous adenoma|serrated lesion|sessile serrated lesion|hyperplastic polyp|juvenile polyp|colon polyp|adenoma of the rectum)"
_TUMOUR = "(breast cancer|colon cancer|prostate cancer|lung adenocarcinoma|gastric cancer|melanoma|lymphoma|a carcinoid|GIST|cervical cancer|thyroid carcinoma|sarcoma)"
_SITE = "(stomach|colon|endometrium|prostate|thyroid|skin|breast|duodenum|salivary gland|oesophagus|kidney|liver|cervix|appendix)"
_PART = "(nuclei|glands|crypts|epithelium|stroma|cells|tumour cells|lymphocytes|nucleoli|cytoplasm|chromatin|surface|mucosa|goblet cells|lamina propria|vessels)"
_TOOL = "(nucleus counter|gland segmentation|gland tool|tissue map|polyp classifier|tissue classifier|cervical cell classifier|blood cell detector|Ki-67 scoring|HER2 scoring|quality check|stain normalisation|case search|archive search|box drawing|grounding tool)"
_METHOD = "(Macenko|Vahadane|Reinhard|colour deconvolution|Otsu|watershed|U-Net|HoVer-Net|CLIP|Herlev|Bethesda|Papanicolaou|Giemsa|DAB|haematoxylin)"
_RESULT = "(nuclear count|number of nuclei|gland count|tumour percentage|stroma share|Ki-67 value|H-score|HER2 score|platelet count|white cell type|polyp class|cell class|blur value|similar cases|density|area|box|differential)"
_PLAIN = "(what is the diagnosis|which organ is it|is it malignant|what do you see|is it benign or malignant|what is your impression|tell me the organ|describe it|give me the diagnosis|is there inflammation|name the tissue|which disease is it|is it a tumour at all|explain what is going on)"
_MEASURED = "(count|measure|score|segment|box|classify|quantify|check|search for|look up|normalise)"

NONE: tuple[str, ...] = (
    # knowledge
    f"(Does|Do|Can|Could) (a|the) {_CELL} (contain granules|divide|leave the blood|have a nucleus|live long|become a macrophage|indicate an allergy|occur in tissue)?",
    f"(What|Which) (disease|diseases|infection|drugs|condition) (raises|lowers|raise|lower|affects|destroys) (the number of |the |){_CELLS}?",
    f"(Why|When|In which diseases|In what situation) (are|do) {_CELLS} (increased|decreased|go up|appear|low|high|enlarged|clump)?",
    f"(How many|What number of|How much) {_CELLS} (is normal|are normal|should there be|does blood usually contain|do newborns have|per microlitre is normal|would be dangerous)?",
    f"(What|How) (is|would be|should be|large is|big is) the (normal|usual|average|expected|typical) (size|number|count|diameter|shape|value|range|density) of (nuclei|glands|crypts|{_CELLS}) in (the {_SITE}|health|adults|children|an elderly person|a normal biopsy)?",
    f"(How many|About how many) (glands|crypts|nuclei|cells|goblet cells|vessels) (does|do) (the|a|a normal|a healthy) {_SITE} (have|contain|show) (in total|normally|per square millimetre|usually|altogether|in a biopsy)?",
    "(Which|What) (Herlev|Bethesda|WHO|Vienna|Paris|HER2|polyp|tissue|cell) (classes|categories|grades|groups|scores|types) (are there|exist|do you know|can you tell apart|does one distinguish|are used)?",
    "(How many|Which) (classes|categories|grades|levels|types|groups) (has|have|does|are in|are there in) (the|) (Herlev set|Bethesda system|HER2 scale|WHO classification|H-score|Gleason system|Paris classification|blood cell differential)(| have)?",
    f"(What|Which) (cut-off|threshold|limit|value) (applies to|is used for|do you take for|is usual for|defines) (positive |high |low |){_MARKER}( in {_TUMOUR}| positivity|)?",
    f"(Is|Are) (a|an|) {_SCORE} of {{num}} (high|low|normal|good|bad|worrying|typical of {_TUMOUR}|compatible with low grade)?",
    f"(What|How) (does|do|would) (a|an|) {_SCORE} of {{num}} (mean|tell us|say|imply|stand for|change)?",
    f"(In|For) (which|what) (tumours|cancers|patients|situations|organs|diseases) (is|do we test|does one need|would you order|is there a role for) {_MARKER}( tested| stained| useful| testing|)?",
    f"(Why|When|How|By whom) (is|was) {_MARKER} (stained|tested|introduced|discovered|done on biopsies|repeated on resections|considered positive|called equivocal)?",
    f"(Which|What) (pattern|staining|compartment|cells|control tissue) (is expected|counts|does one expect|is used|is positive) (for|in|with) {_MARKER}?",
    f"(How|Why) (do|does|would) (labs|pathologists|people|guidelines|experts) (disagree on|differ in|report|calculate|interpret|validate|compare) (the |){_SCORE}(| values)?",
    f"(Who|Which person|Which group) (came up with|invented|devised|published|proposed|named) (the |){_SCORE}?",
    f"(Who|What|When) (was|is) {_METHOD}( named after| invented| good for| used for| based on|)?",
    f"(What|How) (is|does) {_METHOD} (based on|work|used for|different from {_METHOD}|mean|good for)?",
    f"(Compare|Contrast|Tell me the difference between|What distinguishes|How do I tell apart) {_METHOD} and {_METHOD}(?|)",
    f"(Do|Does|Can|Will|How often do) (a |){_POLYP}(s|) (turn malignant|become cancer|recur|bleed|need follow-up|run in families|occur in children|regress|need surgery)?",
    f"(Which|What) (mutation|gene|pathway|risk|symptom|treatment|age group) (is typical of|goes with|leads to|belongs to|is linked to) (a |){_POLYP}?",
    f"(How|In what) (does|do|is) (a |){_POLYP} (differ from|different from|look unlike|distinguished from) (a |){_POLYP}?",
    f"(What|Which) (is|are) the (criteria|features|hallmarks|histology|risks|causes|symptoms|treatment) of (a |){_POLYP}?",
    "(Is|Can|Could|Are) (dysplasia|LSIL|HSIL|koilocytosis|carcinoma in situ|cervical cancer|CIN) (caused by|due to|prevented by|linked to|treated with|detected by) (a virus|HPV|vaccination|smoking|a Pap smear|surgery|inflammation)?",
    "(What|How) (happens after|is done with|follows|does one manage|often is) (an abnormal Pap smear|LSIL|HSIL|ASC-US|CIN 2|a suspicious cervical smear)?",
    "(I|My students) (always |often |) (confuse|cannot tell apart|misunderstand) (mild and moderate dysplasia|monocytes and large lymphocytes|crypts and glands|eosinophils and basophils|stroma and muscle|TPS and CPS|tubular and villous|necrosis and apoptosis)(. Explain|; what is the difference|, help me understand|. Any rule of thumb)(?|)",
    f"(Why|How) (is|are|do|does) (the|) {_PART} (blue|pink|purple|dark|pale|form|develop|change with age|react to injury|look different in cancer|arranged like this)( in H&E| in general| normally|)?",
    f"(What|Which) (is the function of|is the origin of|surrounds|lies beneath|makes up|is between|supports) (the |){_PART}( in the {_SITE}|)?",
    f"(From|Out of|In) (which|what) (layer|cells|germ layer|part) (do|does) the (glands|crypts|nuclei|epithelium|stroma) of the {_SITE} (come|grow|arise|lie|develop)(| from)?",
    "(What|Which) (are|is) the (usual|common|main|most frequent) (causes|cause|reasons|sources) of (a blurred scan|folds in sections|poor focus|pen marks|stain variation|background staining|air bubbles|pale nuclei|false positive staining|a low platelet count)?",
    "(Why|How) (would|does|do|can) (scans|slides|sections|scanners|stains) (get blurred|fold|vary in colour|fade|go out of focus|differ between labs|lose sharpness)?",
    "(How|What) (is|are|should be) (a sufficient|the required|the recommended) (tumour percentage|tumour content|number of cells|pixel size|magnification|number of glands|focus quality) for (a diagnosis|Ki-67 counting|research|scanning|grading|a smear)?",
    f"(Is|Are) (nuclear counts|a nuclear count|gland counts|the tumour-stroma ratio|mitotic counts|nuclear size|platelet size|tumour purity|gland shape|a {_SCORE}) (meaningful|prognostic|of any use|reliable|subjective|standardised|worth reporting|reproducible) (in {_TUMOUR}|in frozen sections|in biopsies|today|between observers|in children)?",
    "(What|Which) (is|are) (the word for|the term for|the name for|called) (nuclei of different size|glands back to back|cells in rows|too many platelets|too few white cells|a gland within a gland|loss of polarity|pink cytoplasm)?",
    "(When|If) (glands fuse|platelets are few|cells lose their polarity|stroma becomes dense|nuclei vary in size|white cells are many), (what is it called|what does one call it|what is the term|what does this mean|what is the cause)?",
    f"(Where|In which organ|In what age|In whom) (does|do) (this tumour|such a tumour|{_TUMOUR}|a {_POLYP}|such lesions) (usually |mostly |typically |) (arise|occur|spread|metastasise|start|grow)(| to)?",
    f"(Which|What) (stain|marker|test|antibody) (shows|would show|highlights|detects|is best for) (the |){_PART}?",
    "(Explain|Describe|Teach me|Tell me) (how|why|when) (one counts mitoses|a differential is done|HER2 is scored|Ki-67 is counted|nuclei are graded|glands are graded|stain vectors are estimated|tumour purity is estimated|smears are read|blur is measured)(| in practice| step by step)",
    "(How|What) (does one|do I|should a beginner|do you usually) (count|measure|score|grade|recognise|tell|look for|distinguish) (mitoses|Ki-67|HER2|nuclear atypia|a gland|dysplasia|a plasma cell|crypt distortion|a monocyte|artefacts)( under the microscope| by hand| in routine| properly|)?",
    # about an earlier answer
    "(You|It|The program|The tool|The assistant) (said|told me|wrote|reported|found|gave|claimed|listed|got) {num} (nuclei|glands|percent|cells|platelets|cases|red cells|percent tumour|crypts)(, is that a lot|; what does it mean|. Of what|, is it normal|. Is this plausible|; why so many|, and what follows|. In which unit|, compared with what)?",
    "(Why|How) (did you|have you|could you|do you) (call it|get|arrive at|find|obtain|come to|decide on|choose|say) (that|so many nuclei|so few glands|this class|that number|the box there|a neutrophil|villous|3+|these cases|this result|that percentage|it blurred)?",
    f"(What|How) (does|do|is|was) (the|your|that|this) {_RESULT} (mean|based on|tell me|computed from|defined|stand for|imply|so low|so high)( here| clinically| for the patient| now|)?",
    f"(In|With) (which|what) (unit|units|precision|scale|sense|colour|confidence) (is|was|did you give|are) (the|your|that) {_RESULT}( given| reported| meant| shown|)?",
    f"(Is|Was|Can) (the|your|that) {_RESULT} (you gave |you found |from before |above |)(normal|reliable|high|low|trustworthy|plausible|be wrong|be trusted|final|worrying|unusual|as expected)?",
    f"(With|Given|Considering) (the|that|your) {_RESULT}( you found| you gave| above| of {{num}}|), (which grade would it be|what is the diagnosis|what would you recommend|is it aggressive|what comes next|is it normal|would you treat)?",
    f"(The|Your) {_RESULT} (you gave|you reported|above|in your answer|from before)(, where does it come from|: what does it mean|, is that usual|. Please explain|: in which unit|, how sure are you)?",
    "(So|And|But|Then) (what does {num} mean|is {num} percent high|is this normal|what about treatment|how sure are you|that would be malignant|why|what does that tell me|is that good|what now|is the patient ill)?",
    "(Please |Could you |)(repeat|rephrase|shorten|simplify|expand|correct|explain|translate|summarise) (your answer|what you said|the last answer|that|your last reply|the explanation|what you wrote about the nuclei|your text on the glands|the part on Ki-67|your sentence about the stroma)(| in simple words| for a patient| in one line| again| please)(?|)",
    "(That|This|It) (is|was|looks|sounds|seems) (wrong|odd|right|strange|not right|too high|too low|impossible|unlikely|good|helpful|not what I asked)(, isn't it|, or not|. Why|, don't you think|. Sure|. Explain|)(?|.|)",
    "(are you sure|sure|really|why is that|how come|what else|anything else|go on|continue|and then|more please|explain more|in short|what do you mean by that|which one did you mean|can you say more|no, that is not it|you misunderstood me|I meant the diagnosis|never mind|forget it)(?|.|)",
    "(What|How) (do the|should I read the|are the) (numbers|columns|figures|colours|boxes|values|units|polygons) (you gave|in the overlay|in your last answer|above|on the map) (mean|stand for|to be read|defined)?",
    f"(The|A) (lab|pathologist|colleague|report|clinic|oncologist|cytologist|haematologist) (measured|reported|found|got|scored|gave|says|has) (a |) ({_SCORE} of {{num}}|{{num}} % {_MARKER}|{{num}} percent tumour|{{num}} glands|{{num}} nuclei|few platelets|HER2 2+|LSIL)(; |. |, )(which grade does this suggest|what does that mean|how do I explain it to the patient|which grade does that point to|what treatment follows|is this high|what should be done now|is it consistent with a carcinoid|what is the next step|does it change the therapy)?",
    "(According to|As per|Following) (the lab|the report|our pathologist|the clinic|an earlier measurement|the first opinion) (the Ki-67 is {num} %|there are {num} nuclei|it is {num} percent tumour|HER2 is 2+|platelets are low|the gland count is {num})(; |. |, )(what does this imply|which grade is it then|what follows|what would you advise|how bad is it|is that usual|which disease fits)?",
    f"(I|We|The student|My colleague) (have |has |) (already|just|yesterday|myself) (counted|measured|scored|checked|segmented|classified) (the |) (nuclei|glands|Ki-67|platelets|tumour area|focus|crypts|red cells|polyp)(. What is the likely diagnosis|; |, so no need for that: |. )({_PLAIN}|which disease fits|what could it be|what do you think of it)?",
    # not to measure
    f"(Don't|Do not|Please don't|You need not|No need to|Never|You must not|I don't want you to|Stop trying to) {_MEASURED} (anything|the nuclei|the glands|the stain|it|the cells|the picture|the tumour|the smear|similar cases|the archive)(, |; |. |: |, just ){_PLAIN}(?|.|)",
    f"(Without|Instead of|Rather than) (counting|measuring|scoring|any segmentation|searching the archive|using a tool|running tools|checking the quality|boxes|a classifier)(, |: |; )(just |please |simply |){_PLAIN}(?|)",
    f"(No|Not any|Forget|Skip|Leave|Enough of|Never mind|Leave out|Drop) (the |) (counting|counts|numbers|segmentation|Ki-67|HER2|measurements|tool|tools|boxes|quality check|archive|statistics|classification|gland count|nuclear count|scores)(, |; |. |: |, please, |, but )({_PLAIN}|only {_PLAIN}|just {_PLAIN})(?|.|)",
    f"(I|We) (don't need|do not want|don't care about|am not asking for|have no use for|already know|don't mean) (the |a |any |) (number of nuclei|nuclear count|gland count|Ki-67|tumour percentage|similar cases|box|quality check|measurement|H-score|numbers|cell count|differential)(, |; |. |: |, but )(I want to know whether it is benign|{_PLAIN}|I need to know if it is atypical|I want the diagnosis|I asked for the organ|tell me what it is)(?|.|)",
    f"{_PLAIN}(?|;|.) (No|Without|Do not give|Leave out) (numbers|counts|measurements|tools|tool calls|figures)( please| needed|, thanks|)",
    "(Never mind|Leave aside|Forget about|Setting aside) (the counting|the numbers|the count|the score|the focus|the classes), (what does it mean clinically|what is the pathology|what do you see|how would you explain it|what is your reading|is it dangerous)?",
    # the picture, read and not measured
    f"(Describe|Comment on|Characterise|Interpret|Say something about|Give your view of|Talk me through|Write about) (the |)({_PART}|architecture|growth pattern|cytology|picture|background)( in words| briefly| for a student| in {{img}}| please|)",
    f"(Do|Does|Don't|Would you say) (the |)({_PART}) (look|looks|appear|seem) (pleomorphic|bland|atypical|reactive|crowded to you|regular|benign|malignant|inflamed|hyperchromatic|back to back|monotonous|oedematous|fibrotic|dysplastic|well preserved)( to you| or not| in {{img}}|)?",
    f"(Is|Are) (the |)({_PART}) (pleomorphic|bland|atypical|desmoplastic|reactive|regular|benign|malignant|inflamed|hyperchromatic|fibrotic|dysplastic|well differentiated|invasive|vacuolated|intact|neoplastic)( or not| in your view| here|)?",
    "(any|is there any|do you see any|could there be|signs of|evidence of|do I see) (necrosis|mitoses|inflammation|granulomas|invasion|dysplasia|atypia|metaplasia|fibrosis|fungi|bacteria|malignancy|ulceration|amyloid|perineural growth|vascular invasion|desmoplasia|mucin)(?| here?| in {img}?| pls|)",
    "(Is|Could|Might|May|Would) (it|this|that|{img}) (be|represent|count as|fit with|suggest|go along with) (a |an |) (gastritis|lymphoma|tuberculosis|sarcoidosis|adenoma|carcinoma|metastasis|reactive change|fungal infection|melanoma|coeliac disease|fibroadenoma|endometriosis|Crohn's disease|glioma)(| or not)?",
    "(I|My colleague|The clinician|The resident) (think|thinks|believe|believes|suspects|says|thought of|favours) (it is |of |) (tuberculosis|an abscess|an adenoma|a metastasis|reactive change|an infection|melanoma|coeliac disease)(. Your opinion|; what speaks for it|, could that be|. Why|, what do you think)?",
    "(The|A) (patient|woman|man|child) is {num}( and smokes| and has fever| with weight loss| with a lump| with diarrhoea| after a transplant|)(. |, |; )(what could it be|which diagnosis would you consider|is it malignant|what do you think|what is it)?",
    "(what|wat) (do you see|is this|is it|organ|tissue|stain|am I looking at|is wrong here|could it be|is the dx|is going on)( in {img}| here| pls| in the picture|)(?|)",
    "(dx|ddx|diagnosis|organ|benign|malignant|cancer|impression|tissue type|description)(?| pls| please| or not?|, your opinion?)",
    "(Which|What) (differential diagnoses|differentials|diagnoses|possibilities|entities|diseases) (would you|do you|should I|can one|come to mind|must I) (consider|think of|list|exclude|)?",
    "(What|Which) (colour|colours|dye|dyes|stain|staining|pigment|counterstain) (was used|do you see|is it|could it be|makes the pink|are the granules|is in the background|is the brown stuff|gives the blue)( here| in {img}|)?",
    "(What|Which) (is|are) (the |) (pink|blue|brown|purple|white|round|empty|dark) (material|areas|dots|granules|bodies|spaces|things|lines)( in the nuclei| around the vessels| in {img}| in the middle|)?",
    "(Which|What) (of the|one of the|distinguishes the|differs between the|is common to the) (two|both|three) (images|pictures|fields)(| is worse| looks malignant| is normal| shows inflammation| is better stained)?",
    "(Is|Was) (the|this) (biopsy|specimen|section|tissue|lesion|slide) (adequate for a diagnosis|from the stomach|from a child|representative|frozen|decalcified|superficial|a resection|from the margin)(, in your opinion|, do you think|)?",
    "(Can|Could|Do) you (see|tell|say|explain|understand|imagine) (what is wrong|which organ it is|why this is not normal|whether it is malignant|what the diagnosis might be|how old the lesion is|why it is pink)?",
    "(Would|Do) you (call|consider|regard|rate|grade) (it|this|{img}|the lesion) (as |) (invasive|benign|malignant|high grade|low grade|suspicious|normal|in situ|well differentiated)(| or not)?",
    # reports, letters, teaching
    "(Draft|Write|Compose|Prepare|Make|Help me write) (a|the|me a) (report|conclusion|letter to the GP|note to the surgeon|e-mail to the lab|abstract|figure legend|case presentation|patient letter|title for my talk)(| please| on this case| about {img}| in two sentences| in plain words)",
    f"(How|Where) (should|do|would|must) (I|we|one) (phrase|put|word|report|mention|write|cite|present) (the |a |) ({_RESULT}|{_SCORE}|finding|negative result)( in the report| in a paper| in a letter| to the clinician|)?",
    "(Translate|Put|Turn|Render) (this|that|the following|the sentence|the word)( into| to) (German|French|Latin|plain English|Turkish)(:|) (no tumour in the glands|the nuclei are enlarged|normal platelets|the stroma is fibrous|positive in 20 percent of nuclei|benign gland|HER2 negative|many white cells)",
    "(Summarise|Sum up|Wrap up|Conclude|Put together) (the case|the findings|our talk|what we have so far|everything|the results so far|the discussion)(| in one paragraph| for my notes| please| for the patient)",
    "(Make|Give|Write|Set|Prepare) (me|us|my students) (a|some|three|five) (quiz|exam question|questions|flash cards|mnemonic|multiple choice question|exercise|teaching points) (on|about|for) (nuclei|glands|the differential blood count|HER2|colon polyps|inflammation|Pap smears|stroma|Ki-67|stains)",
    "(Correct|Check|Proofread|Improve) (my sentence|my grammar|the spelling|my wording|this text)(:|) (the glands is crowded|nuclei was counted|Ki-67 are high|the stroma show fibrosis|platelets is few)",
    # the program
    f"(How|Why|When) (does|do|did|is|was|can) (your|the|this) {_TOOL} (work|trained|fail|decide|get its numbers|make mistakes|validated|handle big slides|differ from a pathologist|slow)( exactly| in short| at all|)?",
    f"(How|Is|Was|What) (accurate|precise|well tested|good|reliable|fast|is the accuracy of|are the limits of|is the error of) (is |) (your|the) {_TOOL}?",
    "(Which|What) (of your tools|tool|tools|model|function|functions|data) (was trained on smears|do you have|can count|handles immunostains|is the best one|would you use for polyps|would count platelets|is slow|needs an archive|works without internet|are there|do you offer)?",
    f"(What|When|Why|For what) (can|should|would) (I|one|this program|the assistant|a student) (do with|use|expect from|need|not use) (the |an |) ({_TOOL}|immunostain|whole slide|blood smear|case archive|overlay)?",
    f"(May|Can|Should|Am I allowed to) (I|we|one) (use|trust|publish|cite|rely on|base a diagnosis on|bill for|sign out with) (the |your |this |) ({_TOOL}|{_RESULT}|program|numbers|results)( in a paper| in routine| in court| clinically|)?",
    "(Do|Does|Is|Are) (you|this program|it|my image|my data|the pictures) (work offline|uploaded|stored|remember old chats|learn from me|run on a laptop|certified|open source|speak German|free|anonymous|kept private|support DICOM|read NDPI files|have an API)?",
    "(Which|What) (file formats|files|formats|slides|scanners|image sizes|resolution|languages|licence|version|model) (can you read|is this|are supported|do you need|should I use|do you understand|are you)(| for smears)?",
    "(How|Where) (do I|can I|does one|to|would I) (upload an image|start|save the results|export the report|add a case to the archive|switch off the tools|change the threshold|install it|open a slide|see the overlay|delete a chat|count with this program|get help)(?| here?|)",
    "(Who|What) (made you|built this|are you|can you do|is this program for|can't you do|do you know|is your name|is the difference between you and ChatGPT|should I know about you)(?|)",
    # elsewhere and small talk
    "(Who|When|Where) (won|discovered|invented|described|was|wrote) (the microscope|H&E|platelets|the Pap test|the red cells|immunohistochemistry|Virchow|Golgi|Ki-67|the first atlas of histology)( born|)?",
    "(How|What) (do I|should I|to|can I do to) (be|learn|train as|revise as|stay) (a pathologist|a good cytologist|histology|a lab technician|haematology|before the exam|better at reading smears)(?|)",
    "(what is|calculate|compute|whats|solve) {num} (x|*|+|-|/|times|plus|minus) {num}(?|)",
    "(What|Which) (day is it|time is it|year is it|city is the capital of France|is the weather|is the best pizza|book do you like|is the meaning of life|is the square root of {num}|is 10 percent of {num})?",
    "(hi there|hello|good afternoon|good day|hey|greetings|hello assistant|hi again|good night|have a nice day|nice to meet you|how are you|how is it going|I am back|I hope all is well)(!|.|,|?|)( dear assistant| friend| all| again|)",
    "(ok|okay|great|perfect|thanks|thx|ty|cool|super|excellent|lovely|alright|fine|good|nice work|well done|brilliant|yes|no|right|sure)(,|.|!)( that helped| that is enough| see you| bye| got it| I understand| that will be all| very useful| you are great| have a good evening| next time| as I thought| makes sense)(!|.|)",
    "(that's it for now|we are done|I'm done|end of work|see you tomorrow|bye for now|talk to you later|I will come back|no more questions|nothing else|that was all)(!|.|, thanks|)",
)
