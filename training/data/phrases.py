# ruff: noqa: E501
"""Wording for instruction data: many ways to ask, several ways to answer.

``ASK`` is used for training; ``ASK_HELD_OUT`` is used only for evaluation, so no question of a benchmark was ever seen.
Answers name the label itself, since closed questions are scored by the likelihood of the option's text.
"""

from __future__ import annotations

ASK: dict[str, tuple[str, ...]] = {
    "organ": (
        "Which organ is this tissue from?",
        "What organ does this image show?",
        "Identify the organ.",
        "Where in the body was this tissue taken?",
        "This field comes from which organ?",
        "Name the tissue of origin.",
        "What is the site of this specimen?",
        "From which site was this sample taken?",
        "Which tissue do you see?",
        "Can you tell the organ from this picture?",
    ),
    "stain": (
        "Which stain was used?",
        "What staining method is this?",
        "Identify the stain.",
        "How was this section stained?",
        "Name the stain of this slide.",
        "Which histological stain do you see?",
        "What stain does the image show?",
    ),
    "diagnosis": (
        "What is the most likely diagnosis?",
        "Which diagnosis fits this image best?",
        "What is the diagnosis of this case?",
        "Name the disease.",
        "Which condition is shown?",
        "What does this slide show?",
        "What lesion is this?",
        "Give the diagnosis.",
    ),
    "findings": (
        "Which microscopic finding belongs to this case?",
        "What would you look for in this lesion?",
        "Which description matches the slide?",
        "Pick the histological description of this case.",
        "Which features are typical of this case?",
    ),
    "category": (
        "What kind of process is this?",
        "Which category does the lesion belong to?",
        "How would you classify the disease process?",
        "Is the process neoplastic, inflammatory or something else?",
    ),
    "lung": (
        "What does this lung tissue show?",
        "Classify this lung tile.",
        "Which lung tissue class is it?",
        "What is the diagnosis in this lung image?",
        "Is this lung normal or cancer, and of which type?",
    ),
    "oral": (
        "What does this oral biopsy show?",
        "Classify this oral tissue.",
        "What is the diagnosis in this mouth biopsy?",
        "Is this oral mucosa normal or malignant?",
    ),
    "node": (
        "Is there a metastasis in the centre of this lymph node tile?",
        "What does the centre of this lymph node patch show?",
        "Classify this lymph node patch.",
        "Does this lymph node contain tumour in the centre?",
        "Check this sentinel node tile.",
    ),
    "scale": (
        "Was this field taken at low, medium or high magnification?",
        "Roughly which magnification is this?",
        "How strongly is the field magnified?",
    ),
    "cells": (
        "Which blood cells are visible?",
        "Name the cell types in this smear.",
        "What cells does this blood smear contain?",
    ),
}

ASK_HELD_OUT: dict[str, tuple[str, ...]] = {
    "organ": (
        "What is the organ of origin of the tissue in this field?",
        "The specimen shown here was obtained from which anatomical site?",
    ),
    "stain": (
        "With which stain has this tissue section been prepared?",
        "The colours in this field result from which staining technique?",
    ),
    "diagnosis": (
        "Considering the morphology, which of these diagnoses is correct?",
        "Which pathological diagnosis was made on this specimen?",
    ),
    "lung": (
        "Which of the following best describes this pulmonary tissue?",
        "How should this sample of lung be reported?",
    ),
    "oral": (
        "Which of the following best describes this sample of the oral cavity?",
        "How should this biopsy of the mouth be reported?",
    ),
    "node": (
        "Which statement about the central region of this nodal patch is true?",
        "How should the middle of this lymphoid tissue tile be reported?",
    ),
    "colorectal": ("Which of the following best describes this colorectal tissue?",),
    "cervical": ("Which class does this cervical cell belong to?",),
    "leucocyte": ("Which type of white blood cell is shown?",),
}

#: Sentences for open answers; ``{}`` is the label. The bare label is used as often.
SAY: dict[str, tuple[str, ...]] = {
    "organ": ("This looks like {}.", "The tissue is most likely {}.", "Most likely {}."),
    "stain": ("The stain is {}.", "This is a {} stain.", "{}."),
    "diagnosis": (
        "The most likely diagnosis is {}.",
        "This fits {}.",
        "The slide comes from a case of {}.",
    ),
    "findings": ("Typical of this case: {}.", "{}."),
    "category": ("This is a process of the type: {}.", "{}."),
    "lung": ("This tile shows {}.", "{}."),
    "oral": ("This biopsy shows {}.", "{}."),
    "node": ("There is {}.", "{}."),
    "scale": ("{} magnification.", "This is a {} magnification field."),
    "cells": ("The smear shows: {}.", "{}."),
}

LETTER_HINTS = (
    "",
    "",
    "",
    "Choose one option.",
    "Pick the best answer.",
    "Answer with the option's letter from the given choices directly.",
    "Select the correct option.",
)

#: Yes/no questions: kind → (template with the label in it, …).
YES_NO: dict[str, tuple[str, ...]] = {
    "organ": ("Is this {}?", "Does this field come from {}?", "Could this tissue be {}?", "Is the organ {}?"),
    "stain": ("Is this a {} stain?", "Was {} used?", "Is the slide stained with {}?"),
    "diagnosis": ("Is this {}?", "Does the slide show {}?", "Would you call this {}?"),
    "lung": ("Is this {}?", "Does the tile show {}?"),
    "oral": ("Is this {}?", "Does the biopsy show {}?"),
    "node": ("Is there {}?",),
}

UNANSWERABLE = (
    "How old is the patient?",
    "What is the patient's name?",
    "Is the patient a man or a woman?",
    "What is the five-year survival of this patient?",
    "What is the HER2 status?",
    "Which mutation does this tumour carry?",
    "Is the tumour microsatellite unstable?",
    "What was the serum level of the tumour marker?",
    "How large is the tumour in centimetres?",
    "Has the tumour spread to the liver in this patient?",
    "Which drug should the patient get?",
    "On which date was the biopsy taken?",
    "Which hospital did this slide come from?",
    "What is the TNM stage?",
    "Did the patient smoke?",
)

CANNOT_TELL = (
    "I cannot tell that from this image.",
    "This image does not show that; not enough evidence.",
    "That cannot be determined from this field.",
    "Not enough evidence in this image to answer that.",
)

BLANK = (
    "The image is empty: there is no tissue to judge.",
    "I see no tissue in this image, so there is not enough evidence to answer.",
    "There is no tissue here; please send another field.",
)

#: General questions without an image, with short correct answers, so that tuning on images does not erase plain chat.
GENERAL: tuple[tuple[str, str], ...] = (
    ("Hello", "Hello. Send me a microscope field and ask about it. I am for research use only, not for diagnosis."),
    ("Hi, what can you do?", "I answer questions about histology images: organ, stain and likely lesion, each with a confidence. Research use only."),
    ("Who are you?", "I am pathassist, a small open assistant for pathology images. I am for research, never for diagnosis."),
    ("Can you diagnose my biopsy?", "No. I am a research tool and must not be used for diagnosis. Please ask a pathologist."),
    ("Thank you", "You are welcome."),
    ("What does H&E stand for?", "H&E stands for haematoxylin and eosin, the routine stain of histology."),
    ("What colour does haematoxylin give?", "Haematoxylin stains nuclei blue to purple."),
    ("What does eosin stain?", "Eosin stains cytoplasm, collagen and muscle pink."),
    ("What is PAS used for?", "PAS stains glycogen, mucin and basement membranes magenta."),
    ("What is PAS with diastase for?", "Diastase digests glycogen before PAS, so what still stains is not glycogen."),
    ("What does the Giemsa stain show?", "Giemsa shows blood cells, mast cells and organisms such as Helicobacter pylori."),
    ("What is Warthin-Starry?", "Warthin-Starry is a silver stain that shows spirochaetes and Helicobacter in black."),
    ("What is immunohistochemistry?", "Immunohistochemistry uses antibodies to show a protein in tissue, usually as a brown DAB colour."),
    ("Which markers show neuroendocrine cells?", "Chromogranin and synaptophysin mark neuroendocrine cells."),
    ("What is Ki-67?", "Ki-67 is a nuclear protein of dividing cells; its index measures proliferation."),
    ("What is dysplasia?", "Dysplasia is disordered growth of epithelium with atypical nuclei that has not invaded."),
    ("What is metaplasia?", "Metaplasia is the change of one mature cell type into another, such as intestinal metaplasia of the stomach."),
    ("What is an adenoma?", "An adenoma is a benign tumour of glandular epithelium."),
    ("What is an adenocarcinoma?", "An adenocarcinoma is a malignant tumour that forms glands or mucin."),
    ("What is a squamous cell carcinoma?", "A squamous cell carcinoma is a malignant tumour of squamous cells, often with keratin and intercellular bridges."),
    ("What are signet ring cells?", "Signet ring cells hold mucin that pushes the nucleus to the edge of the cell."),
    ("What is a granuloma?", "A granuloma is a nodule of epithelioid macrophages, often with giant cells and lymphocytes."),
    ("What is necrosis?", "Necrosis is the death of cells in living tissue; nuclei fade and structure is lost."),
    ("What does inflammation look like?", "Acute inflammation shows neutrophils; chronic inflammation shows lymphocytes, plasma cells and macrophages."),
    ("What is melanosis coli?", "Melanosis coli is brown lipofuscin in macrophages of the colonic mucosa, linked to laxatives."),
    ("What is Giardia?", "Giardia is a pear-shaped parasite that lies along the duodenal surface."),
    ("What is a hamartoma?", "A hamartoma is a benign disordered growth of tissue that belongs to the site."),
    ("What is heterotopia?", "Heterotopia is normal tissue in an abnormal place, such as pancreas in the stomach."),
    ("What is a metastasis?", "A metastasis is a tumour that has spread from its first site to another organ."),
    ("What is a lymph node?", "A lymph node is a small organ that filters lymph; it has follicles, a paracortex and sinuses."),
    ("What is the difference between benign and malignant?", "A benign tumour does not invade or spread; a malignant one does."),
    ("What is a whole-slide image?", "A whole-slide image is a digital scan of a complete glass slide, stored as a pyramid of resolutions."),
    ("What is stain normalisation?", "Stain normalisation makes the colours of images from different laboratories alike."),
    ("What does magnification mean in a digital slide?", "In a digital slide, microns per pixel say how large a pixel is; about 0.25 matches 40 times."),
    ("What are neutrophils?", "Neutrophils are white blood cells with a lobed nucleus that dominate acute inflammation."),
    ("What are eosinophils?", "Eosinophils are white blood cells with bright pink granules and usually two nuclear lobes."),
    ("What are lymphocytes?", "Lymphocytes are small white blood cells with a round dark nucleus and little cytoplasm."),
    ("Can you be wrong?", "Yes, often. Look at the confidence, check the evidence, and ask a pathologist."),
)  # fmt: skip
