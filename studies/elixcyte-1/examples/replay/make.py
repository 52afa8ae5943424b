#!/usr/bin/env python3
"""Writes the replay of the trial: twelve invented subjects at two invented hospitals, as their EHRs would send them.

Usage: make.py [DIR]    (DIR: where the site folders are written; this folder when it is not given)

The same bytes on every run: a fixed seed, no clock, no network, the standard library alone. What the trial published is
written down in PUBLISHED and asserted at the end, from the files as they were written; everything else is invented.
README.md beside this file says which part carries which published fact.
"""

import itertools
import json
import random
import statistics
import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

SEED = 20200559
ZONE = timezone(timedelta(hours=8))
UCUM = "http://unitsofmeasure.org"
LOINC = "http://loinc.org"
NCIT = "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl"
BACKPORT = "http://hl7.org/fhir/uv/ae-research-backport-ig/StructureDefinition/"
RESEARCH = "http://hl7.org/fhir/uv/ae-research-ig/StructureDefinition/"
CTCAE_GRADE = "http://hl7.org/fhir/us/ctcae/StructureDefinition/ctcae-grade"
TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"
SYNTHETIC = {"system": "https://nephrogate.example/tags", "code": "synthetic"}

NORTH, SOUTH = "north-hospital", "south-hospital"
NORTH_URL, SOUTH_URL = "https://fhir.north-hospital.example.org", "https://his.south-hospital.example.org"
NORTH_FHIR, SOUTH_FHIR = f"{NORTH_URL}/r4", f"{SOUTH_URL}/fhir"
NCT = {"system": "https://clinicaltrials.gov", "value": "NCT02933827"}

# ASN Kidney Week 2020, PO0559 [ASN]; Zheng C-M et al., J Cell Mol Med 2022;26:2972-2980 [JCMM].
PUBLISHED = {
    "arms": {"low": 3, "middle": 3, "high": 6},  # [JCMM]
    "cells": {"low": 6.4e7, "middle": 19.2e7, "high": 32.0e7},  # one intravenous dose [JCMM]
    "millilitres": {"low": 8, "middle": 24, "high": 40},  # [JCMM]
    "egfr_increased": {"W24": 7, "W48": 6},  # of 12 [JCMM]
    "rise_above_20_percent_at_w24_below_30": 2,  # and all with a baseline of 30 or more [JCMM]
    "weeks": {"W0": 0, "W2": 2, "W4": 4, "W12": 12, "W24": 24, "W36": 36, "W48": 48},  # registry NCT02933827
    "egfr_eligible": (15, 44),  # registry, inclusion 2
    "age_eligible": (20, 80),  # registry, inclusion 1
}


class Subject:
    """One row of the invented table. Percent changes of eGFR and UPCR (mg/g) stand at the visits of VISITS."""

    def __init__(self, name, site, id, given, sex, born, arm, dosed, egfr, egfr_percent, upcr):
        self.name, self.site, self.id, self.given, self.sex = name, site, id, given, sex
        self.born, self.arm, self.dosed = date.fromisoformat(born), arm, date.fromisoformat(dosed)
        self.egfr = dict(zip(VISITS, [egfr * (1 + percent / 100) for percent in [0, *egfr_percent]]))
        self.upcr = dict(zip(VISITS, upcr))


VISITS = list(PUBLISHED["weeks"])
# fmt: off
# In the order in which they were dosed. The id 1007 stands at both hospitals, for two persons.
SUBJECTS = [
    #        site   id         given      sex      born          arm       dosed          eGFR  W2    W4    W12   W24   W36   W48     UPCR W0 W2 W4 W12 W24 W36 W48
    Subject("S01", NORTH, "1002", "Aster", "female", "1961-08-19", "low", "2023-03-07", 33.8, [2.0, 6.5, 15.0, 24.5, 18.0, 11.0], [812, 790, 775, 702, 640, 688, 705]),
    Subject("S02", SOUTH, "50021783", "Birch", "male", "1955-02-03", "low", "2023-03-21", 22.4, [1.0, -1.5, -4.0, -6.0, -9.0, -12.0], [1450, 1475, 1490, 1560, 1610, 1650, 1720]),
    Subject("S03", NORTH, "1007", "Cedar", "male", "1968-11-30", "low", "2023-04-11", 18.6, [1.5, 4.0, 11.0, 19.4, 6.5, -3.2], [2310, 2290, 2250, 2120, 1980, 2040, 2105]),
    Subject("S04", SOUTH, "1007", "Dahlia", "male", "1972-05-14", "middle", "2023-05-23", 38.5, [3.0, 7.0, 16.0, 23.4, 19.0, 15.0], [560, 552, 540, 505, 488, 512, 530]),
    Subject("S05", NORTH, "1011", "Elder", "male", "1958-01-27", "middle", "2023-06-06", 29.7, [0.8, 2.0, 5.0, 7.5, 6.0, 4.2], [1180, 1165, 1190, 1210, 1235, 1150, 1090]),
    Subject("S06", SOUTH, "50033410", "Fern", "female", "1949-09-08", "middle", "2023-06-27", 24.6, [-0.7, -2.0, -6.0, -9.5, -13.0, -16.0], [1730, 1760, 1790, 1950, 2150, 2040, 1960]),
    Subject("S07", NORTH, "1015", "Gentian", "female", "1966-04-02", "high", "2023-08-08", 31.6, [3.5, 9.0, 18.5, 27.0, 22.0, 19.0], [935, 910, 880, 815, 772, 940, 1010]),
    Subject("S08", SOUTH, "50040277", "Hazel", "male", "1963-12-21", "high", "2023-08-22", 27.3, [2.0, 6.0, 15.5, 23.1, 14.0, 9.0], [1380, 1365, 1340, 1270, 1205, 1250, 1290]),
    Subject("S09", NORTH, "1019", "Iris", "male", "1952-06-16", "high", "2023-09-12", 20.8, [-1.0, 1.2, -2.5, -4.0, -7.0, -10.0], [2640, 2655, 2610, 2540, 2485, 2700, 2870]),
    Subject("S10", SOUTH, "50051964", "Juniper", "female", "1970-03-25", "high", "2023-10-24", 17.2, [2.5, 6.0, 14.0, 22.0, 12.0, 6.5], [1905, 1890, 1900, 1870, 1838, 1790, 1760]),
    Subject("S11", SOUTH, "50054408", "Kerria", "male", "1984-10-11", "high", "2023-11-07", 23.5, [0.6, -0.8, -1.5, -2.2, -5.0, -7.0], [1260, 1280, 1305, 1350, 1395, 1370, 1340]),
    Subject("S12", NORTH, "1024", "Lupin", "female", "1944-07-05", "high", "2023-11-28", 28.4, [-1.5, -3.0, -8.0, -12.0, -15.5, -18.0], [1560, 1575, 1600, 1655, 1700, 1790, 1875]),
]
# fmt: on
# Days from the due day, by visit. Small, since the windows are not published.
EARLY_OR_LATE = {
    "W0": [0],
    "W2": [-1, 0, 0, 1],
    "W4": [-2, -1, 0, 0, 1, 2],
    "W12": [-3, -1, 0, 1, 3],
    "W24": [-5, -2, 0, 2, 4],
    "W36": [-4, -1, 0, 3, 5],
    "W48": [-5, -2, 0, 1, 4],
}

draw = random.Random(SEED)


# --- numbers ---------------------------------------------------------------------------------------------------------


def years(born, on):
    return on.year - born.year - ((on.month, on.day) < (born.month, born.day))


def egfr_2021(creatinine_mg_dl, sex, age):
    """CKD-EPI 2021 creatinine, mL/min/1.73 m2: Inker LA et al., N Engl J Med 2021;385:1737-1749."""
    k, a, factor = (0.7, -0.241, 1.012) if sex == "female" else (0.9, -0.302, 1.0)
    return 142 * min(creatinine_mg_dl / k, 1) ** a * max(creatinine_mg_dl / k, 1) ** -1.2 * 0.9938**age * factor


def creatinine_mg_dl(egfr, sex, age):
    """The creatinine that gives this eGFR; above k, where every eGFR of a kidney patient lies."""
    k, factor = (0.7, 1.012) if sex == "female" else (0.9, 1.0)
    return k * (142 * 0.9938**age * factor / egfr) ** (1 / 1.2)


def mdrd(creatinine_mg_dl, sex, age):
    """MDRD 175: what the northern laboratory still reports beside each creatinine."""
    return 175 * creatinine_mg_dl**-1.154 * age**-0.203 * (0.742 if sex == "female" else 1)


UMOL_L_PER_MG_DL = 88.42


# --- writing resources -----------------------------------------------------------------------------------------------

written = {NORTH: {}, SOUTH: {}}
southern_bundle = []
counters = {}


def at(day, hour, minute=0):
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=ZONE)


def text_of(when):
    """FHIR syntax of a day or an instant."""
    return when.isoformat()


def fresh(site, prefix):
    counters[site, prefix] = counters.get((site, prefix), 0) + draw.randint(1, 7)
    return f"{prefix}{counters[site, prefix]:06d}"


def put(site, type, id, updated, body, version=1, bundle=False):
    """One version of one resource."""
    meta = {"versionId": str(version), "lastUpdated": text_of(updated), "tag": [SYNTHETIC]}
    resource = {"resourceType": type, "id": id, "meta": meta, **{key: value for key, value in body.items() if value is not None}}
    if bundle:
        southern_bundle.append({"fullUrl": f"{SOUTH_FHIR}/{type}/{id}", "resource": resource})
    else:
        written[site].setdefault(type, []).append(resource)
    return resource


def reference(site, type, id):
    # The southern system writes its own address into every reference.
    return {"reference": f"{SOUTH_FHIR}/{type}/{id}" if site == SOUTH else f"{type}/{id}"}


def patient(site, id, given, sex, born):
    system = f"{NORTH_URL}/mrn" if site == NORTH else f"{SOUTH_URL}/chart-no"
    body = {
        "identifier": [{"system": system, "value": f"X{id.zfill(8)}"}],
        "name": [{"family": "Synthetic", "given": [given]}],
        "gender": sex,
        "birthDate": text_of(born),
    }
    put(site, "Patient", id, at(date(2023, 1, 9), 9), body)


def concept(system, code, display=None, text=None):
    coding = {"system": system, "code": code}
    if display:
        coding["display"] = display
    return {"coding": [coding], **({"text": text} if text else {})}


LABORATORY = [concept(f"{TERMINOLOGY}observation-category", "laboratory")]


def observation(
    site, patient_id, code, effective, quantity, id, issued, status="final", version=1, high=None, low=None, accession=None, bundle=False
):
    """One laboratory result; `quantity` as FHIR writes it, `low` and `high` numbers in its unit."""
    limit = lambda value: {**quantity, "value": value}
    range = {key: limit(value) for key, value in (("low", low), ("high", high)) if value is not None}
    body = {
        "identifier": [{"system": f"{SOUTH_URL}/accession", "value": accession}] if accession else None,
        "status": status,
        "category": LABORATORY,
        "code": code,
        "subject": reference(site, "Patient", patient_id),
        "effectiveDateTime": text_of(effective),
        "issued": text_of(issued),
        "valueQuantity": quantity,
        "referenceRange": [range] if range else None,
    }
    return put(site, "Observation", id, issued, body, version, bundle)


def ucum(value, code, unit=None):
    return {"value": value, "unit": unit or code, "system": UCUM, "code": code}


# --- the northern laboratory: LOINC, mg/dL, UCUM, zoned times, its own MDRD beside each creatinine ---------------------


def northern_creatinine(subject, on, drawn, egfr, id=None, status="final", version=1, issued=None):
    age = years(subject.born, on)
    value = round(creatinine_mg_dl(egfr, subject.sex, age), 2)
    high = 1.1 if subject.sex == "female" else 1.2
    issued = issued or drawn + timedelta(hours=draw.choice([3, 4, 6]), minutes=draw.randrange(60))
    code = concept(LOINC, "2160-0", "Creatinine [Mass/volume] in Serum or Plasma")
    id = id or fresh(NORTH, "nl")
    observation(NORTH, subject.id, code, drawn, ucum(value, "mg/dL"), id, issued, status, version, high=high)
    if version == 1:
        code = concept(LOINC, "33914-3", text="Estimated GFR (MDRD)")
        quantity = ucum(round(mdrd(value, subject.sex, age), 1), "mL/min/{1.73_m2}", "mL/min/1.73m2")
        observation(NORTH, subject.id, code, drawn, quantity, fresh(NORTH, "nl"), issued, status)
    return id


def northern_upcr(subject, drawn, value):
    code = concept(LOINC, "2890-2", "Protein/Creatinine [Mass Ratio] in Urine")
    observation(NORTH, subject.id, code, drawn, ucum(value, "mg/g{creat}", "mg/g"), fresh(NORTH, "nl"), drawn + timedelta(hours=5))


# --- the southern laboratory: own codes, umol/L in many spellings, urine protein and creatinine apart ------------------

SOUTHERN_LAB = f"{SOUTH_URL}/lab-item"
SPELLINGS = [
    {"unit": "umol/L"},
    {"unit": "\u00b5mol/L"},
    {"unit": "mcmol/L"},
    {"unit": "\u03bcmol/L", "system": UCUM, "code": "umol/L"},
    {"unit": "UMOL/L"},
    {"unit": "umol/l", "system": UCUM, "code": "umol/L"},
]
CREATININE_CODES = [
    {"coding": [{"system": SOUTHERN_LAB, "code": "B-KREA", "display": "Creatinine (serum)"}], "text": "Creatinine (serum)"},
    {"coding": [{"system": SOUTHERN_LAB, "code": "B-KREA"}, {"system": LOINC, "code": "14682-9"}], "text": "Creatinine"},
    {"coding": [{"system": LOINC + "/", "code": "14682-9"}]},
]


def southern_creatinine(subject, on, drawn, egfr, id=None, status="final", version=1, issued=None, accession=None, bundle=False):
    value = round(creatinine_mg_dl(egfr, subject.sex, years(subject.born, on)) * UMOL_L_PER_MG_DL)
    quantity = {"value": value, **SPELLINGS[counters.get("spelling", 0) % len(SPELLINGS)]}
    code = CREATININE_CODES[counters.get("spelling", 0) % len(CREATININE_CODES)]
    counters["spelling"] = counters.get("spelling", 0) + 1
    high = 97 if subject.sex == "female" else 106
    if not isinstance(drawn, datetime):
        issued = issued or at(drawn, 16, draw.randrange(60))
    issued = issued or drawn + timedelta(hours=draw.choice([2, 5, 7]), minutes=draw.randrange(60))
    id = id or fresh(SOUTH, "L2")
    accession = accession or fresh(SOUTH, "A23-")
    return observation(SOUTH, subject.id, code, drawn, quantity, id, issued, status, version, high=high, accession=accession, bundle=bundle)


def southern_urine(subject, drawn, upcr, bundle=False):
    """Protein and creatinine of one urine; the hospital computes no ratio."""
    urine_creatinine_mg_dl = draw.randrange(55, 150)
    accession, issued = fresh(SOUTH, "A23-"), drawn + timedelta(hours=6)
    protein_mg_dl = round(upcr * urine_creatinine_mg_dl / 1000, 1)
    code = {"coding": [{"system": SOUTHERN_LAB, "code": "U-TP"}], "text": "Total protein (urine)"}
    observation(
        SOUTH,
        subject.id,
        code,
        drawn,
        {"value": protein_mg_dl, "unit": "mg/dl"},
        fresh(SOUTH, "L2"),
        issued,
        accession=accession,
        bundle=bundle,
    )
    # Half of the charts are from the building whose analyser reports moles.
    quantity = {"value": urine_creatinine_mg_dl, "unit": "mg/dl"}
    if subject.name in ("S02", "S04", "S06"):
        quantity = {"value": round(urine_creatinine_mg_dl * UMOL_L_PER_MG_DL / 1000, 2), "unit": "mmol/L", "system": UCUM, "code": "mmol/L"}
    code = {
        "coding": [{"system": SOUTHERN_LAB, "code": "U-KREA"}, {"system": LOINC, "code": "14683-7" if "code" in quantity else "2161-8"}]
    }
    observation(SOUTH, subject.id, code, drawn, quantity, fresh(SOUTH, "L2"), issued, accession=accession, bundle=bundle)


# --- laboratory exclusions at screening, and results that nobody asked for --------------------------------------------

EXCLUSION_LABS = [
    # LOINC, southern code, unit, decimals, low, high of what is drawn, low and high limit of normal
    ("751-8", "B-ANC", "10*3/uL", 2, 2.4, 6.1, 1.8, 7.7),
    ("777-3", "B-PLT", "10*3/uL", 0, 158, 301, 150, 400),
    ("718-7", "B-HB", "g/dL", 1, 9.6, 13.2, 12.0, 16.0),
    ("1975-2", "B-TBIL", "mg/dL", 2, 0.31, 0.96, 0.2, 1.2),
    ("1920-8", "B-AST", "U/L", 0, 14, 33, None, 34),
    ("1742-6", "B-ALT", "U/L", 0, 11, 38, None, 40),
    ("6768-6", "B-ALP", "U/L", 0, 52, 108, 34, 104),
    ("4548-4", "B-A1C", "%", 1, 5.3, 7.4, None, 6.0),
]


def exclusion_labs(subject, drawn):
    for loinc, local, unit, decimals, low, high, normal_low, normal_high in EXCLUSION_LABS:
        value = round(draw.uniform(low, high), decimals) if decimals else draw.randint(low, high)
        issued = drawn + timedelta(hours=4)
        if subject.site == NORTH:
            observation(
                NORTH,
                subject.id,
                concept(LOINC, loinc),
                drawn,
                ucum(value, unit),
                fresh(NORTH, "nl"),
                issued,
                low=normal_low,
                high=normal_high,
            )
        else:
            code = {"coding": [{"system": SOUTHERN_LAB, "code": local}]}
            accession = fresh(SOUTH, "A23-")
            observation(
                SOUTH,
                subject.id,
                code,
                drawn,
                ucum(value, unit),
                fresh(SOUTH, "L2"),
                issued,
                low=normal_low,
                high=normal_high,
                accession=accession,
            )


def unasked_for(subject, drawn):
    """What no study judges by."""
    if subject.site == NORTH:
        observation(
            NORTH,
            subject.id,
            concept(LOINC, "2823-3", "Potassium"),
            drawn,
            ucum(round(draw.uniform(4.0, 5.2), 1), "mmol/L"),
            fresh(NORTH, "nl"),
            drawn + timedelta(hours=4),
        )
    else:
        code = {"coding": [{"system": SOUTHERN_LAB, "code": "B-GLU"}], "text": "Glucose (serum)"}
        accession = fresh(SOUTH, "A23-")
        observation(
            SOUTH,
            subject.id,
            code,
            drawn,
            {"value": draw.randrange(84, 141), "unit": "mg/dl"},
            fresh(SOUTH, "L2"),
            drawn + timedelta(hours=4),
            accession=accession,
        )


# --- one subject's way -----------------------------------------------------------------------------------------------

DRAWS = {}  # (subject, visit) -> id of the creatinine
DAYS = {}  # (subject, visit) -> day of the draw


def creatinine(subject, on, drawn, egfr, **more):
    if subject.site == NORTH:
        return northern_creatinine(subject, on, drawn, egfr, **more)
    return southern_creatinine(subject, on, drawn, egfr, **more)["id"]


def results(subject):
    """History, screening and visits. The screening value is within 2 % of the baseline: no acute rise."""
    for days in (212, 118):
        on = subject.dosed - timedelta(days=days + draw.randrange(5))
        drawn = at(on, 9, draw.randrange(60)) if subject.site == NORTH or days == 118 else on
        creatinine(subject, on, drawn, subject.egfr["W0"] * draw.uniform(1.03, 1.09))
    screened = subject.dosed - timedelta(days=draw.randrange(12, 19))
    drawn = at(screened, 8, draw.randrange(60))
    creatinine(subject, screened, drawn, subject.egfr["W0"] * draw.uniform(0.985, 1.015))
    exclusion_labs(subject, drawn)
    for visit in VISITS:
        on = subject.dosed + timedelta(weeks=PUBLISHED["weeks"][visit], days=draw.choice(EARLY_OR_LATE[visit]))
        # The infusion of S02 is known by its day alone, so its baseline was drawn the day before.
        on -= timedelta(days=subject.name == "S02" and visit == "W0")
        # 07:40 in the hospital's zone is the day before in UTC.
        drawn = at(on, 7 if subject.name in ("S03", "S10") else 8, 40 if subject.name in ("S03", "S10") else draw.randrange(5, 55))
        late = subject.site == SOUTH and on >= date(2024, 8, 1)
        more = {"bundle": True} if late else {}
        if (subject.name, visit) == ("S02", "W24"):
            # First preliminary, and too good; then final under the same id.
            id, accession = fresh(SOUTH, "L2"), fresh(SOUTH, "A23-")
            southern_creatinine(
                subject,
                on,
                drawn,
                subject.egfr["W0"] * 1.09,
                id=id,
                status="preliminary",
                issued=drawn + timedelta(hours=1),
                accession=accession,
            )
            creatinine(subject, on, drawn, subject.egfr[visit], id=id, version=2, issued=drawn + timedelta(hours=9), accession=accession)
        elif (subject.name, visit) == ("S12", "W48"):
            # Final, and a day later corrected: samples had been exchanged.
            id = northern_creatinine(subject, on, drawn, subject.egfr["W0"] * 1.11)
            northern_creatinine(
                subject, on, drawn, subject.egfr[visit], id=id, status="corrected", version=2, issued=drawn + timedelta(hours=29)
            )
        elif (subject.name, visit) == ("S08", "W24"):
            # The same result by two doors: one accession, two ids.
            result = southern_creatinine(subject, on, drawn, subject.egfr[visit])
            id = result["id"]
            copy = {key: value for key, value in result.items() if key not in ("resourceType", "id", "meta")}
            put(SOUTH, "Observation", fresh(SOUTH, "RPT"), datetime.fromisoformat(result["issued"]), copy)
        else:
            id = creatinine(subject, on, drawn, subject.egfr[visit], **more)
        DRAWS[subject.name, visit], DAYS[subject.name, visit] = id, on
        if subject.site == NORTH:
            northern_upcr(subject, drawn, subject.upcr[visit])
        else:
            southern_urine(subject, drawn, subject.upcr[visit], **more)
        if visit in ("W4", "W36"):
            unasked_for(subject, drawn)


NORTHERN_ARM = {"low": "Cohort 1 (8 mL)", "middle": "Cohort 2 (24 mL)", "high": "Cohort 3 (40 mL)"}
SOUTHERN_ARM = {"low": "D1", "middle": "D2", "high": "D3"}
OTHER_TRIAL = {"identifier": {"system": NCT["system"], "value": "NCT00000000"}, "display": "Another trial"}


def study_reference(site):
    if site == NORTH:
        return {"reference": "ResearchStudy/adsc-ckd", "display": "ADSC in CKD"}
    return {"identifier": NCT, "display": "ELIXCYTE"}


def enrolment(subject):
    started = subject.dosed - timedelta(days=draw.randrange(3, 6))
    if subject.name == "S12":
        started = subject.dosed - timedelta(days=9)
    id = fresh(subject.site, "rs")
    body = lambda status, arms: {
        "status": status,
        "period": {"start": text_of(started)},
        "study": study_reference(subject.site),
        "individual": reference(subject.site, "Patient", subject.id),
        **arms,
    }
    if subject.site == NORTH:
        arm = NORTHERN_ARM[subject.arm]
        put(NORTH, "ResearchSubject", id, at(started, 11), body("on-study", {"assignedArm": arm}))
        put(NORTH, "ResearchSubject", id, at(subject.dosed, 17), body("follow-up", {"assignedArm": arm, "actualArm": arm}), version=2)
    else:
        put(SOUTH, "ResearchSubject", id, at(subject.dosed, 18), body("on-study", {"actualArm": SOUTHERN_ARM[subject.arm]}))


PHARMACY = f"{NORTH_URL}/pharmacy"
SOUTHERN_PROCEDURE = f"{SOUTH_URL}/order-item"
CELLS_EXTENSION = f"{SOUTH_FHIR}/StructureDefinition/infused-cells"
INFUSION = {}  # subject -> (type, id, start, end)


def infusion(subject):
    start = at(subject.dosed, 10, draw.randrange(5, 50))
    end = start + timedelta(minutes=40 + PUBLISHED["millilitres"][subject.arm])
    if subject.site == NORTH:
        # The pharmacy counts millilitres, not cells.
        body = {
            "status": "completed",
            "medicationCodeableConcept": concept(PHARMACY, "IMP-0417", "ADSC suspension for infusion (investigational)"),
            "subject": reference(NORTH, "Patient", subject.id),
            "effectivePeriod": {"start": text_of(start), "end": text_of(end)},
            "dosage": {
                "text": f"{PUBLISHED['millilitres'][subject.arm]} mL intravenously, once",
                "route": concept("http://snomed.info/sct", "47625008", "Intravenous route"),
                "dose": ucum(PUBLISHED["millilitres"][subject.arm], "mL"),
            },
        }
        id = fresh(NORTH, "ma")
        put(NORTH, "MedicationAdministration", id, end, body)
        INFUSION[subject.name] = ("MedicationAdministration", id, start, end)
        if subject.name == "S12":
            # A week before, she had a cold; nothing was given.
            put_off = start - timedelta(days=7)
            body = {
                **body,
                "status": "not-done",
                "statusReason": [{"text": "Upper respiratory infection"}],
                "effectivePeriod": {"start": text_of(put_off)},
            }
            body.pop("dosage")
            put(NORTH, "MedicationAdministration", fresh(NORTH, "ma"), put_off, body)
    else:
        cells = int(PUBLISHED["cells"][subject.arm])
        performed = {"performedPeriod": {"start": text_of(start), "end": text_of(end)}}
        if subject.name == "S02":
            performed = {"performedDateTime": text_of(subject.dosed)}
        body = {
            "extension": [{"url": CELLS_EXTENSION, "valueQuantity": {"value": cells, "unit": "cells", "system": UCUM, "code": "{cells}"}}],
            "status": "completed",
            "code": {"coding": [{"system": SOUTHERN_PROCEDURE, "code": "RX-ADSC-INF"}], "text": "Cell infusion, trial"},
            "subject": reference(SOUTH, "Patient", subject.id),
            **performed,
        }
        id = fresh(SOUTH, "P")
        put(SOUTH, "Procedure", id, end, body)
        INFUSION[subject.name] = ("Procedure", id, start, end)
    stay(subject.site, subject.id, at(subject.dosed, 8), at(subject.dosed + timedelta(days=1), 11), "IMP", "EL")


def stay(site, patient_id, start, end, kind, priority):
    body = {
        "status": "finished",
        "class": {"system": f"{TERMINOLOGY}v3-ActCode", "code": kind},
        "priority": concept(f"{TERMINOLOGY}v3-ActPriority", priority),
        "subject": reference(site, "Patient", patient_id),
        "period": {"start": text_of(start), "end": text_of(end)},
    }
    id = fresh(site, "en")
    put(site, "Encounter", id, end, body)
    return id


def conditions(subject):
    stage_3b = subject.egfr["W0"] >= 30
    since = text_of(subject.dosed - timedelta(days=draw.randrange(700, 2600)))
    if subject.site == NORTH:
        codes = [concept("http://hl7.org/fhir/sid/icd-10-cm", "N18.32" if stage_3b else "N18.4", "Chronic kidney disease")]
        codes += [concept("http://hl7.org/fhir/sid/icd-10-cm", "I10", "Essential hypertension")]
        codes += [concept("http://hl7.org/fhir/sid/icd-10-cm", "E11.22", "Type 2 diabetes")] if subject.name in ("S05", "S09") else []
    else:
        codes = [concept("http://snomed.info/sct", "700379002" if stage_3b else "431857002")]
        codes += [concept("http://snomed.info/sct", "44054006")] if subject.name in ("S06", "S08") else []
    for code in codes:
        condition(subject.site, subject.id, code, since, "active", "confirmed")


def condition(site, patient_id, code, since, clinical, verification):
    body = {
        "clinicalStatus": concept(f"{TERMINOLOGY}condition-clinical", clinical) if clinical else None,
        "verificationStatus": concept(f"{TERMINOLOGY}condition-ver-status", verification),
        "code": code,
        "subject": reference(site, "Patient", patient_id),
        "onsetDateTime": since,
        "recordedDate": since,
    }
    put(site, "Condition", fresh(site, "co"), at(date(2023, 1, 10), 9), body)


# --- adverse events --------------------------------------------------------------------------------------------------

GRADE = {1: "C41338", 2: "C41339", 3: "C41340"}
RELATED = {"not": "C53256", "unlikely": "C53257", "possibly": "C53258", "related": "C53260"}
OUTCOME = {"resolved": ("C49498", "resolved"), "recovering": ("C49496", "recovering"), "ongoing": ("C49494", "ongoing")}
WHO_UMC = f"{TERMINOLOGY}adverse-event-causality-assess"
NORTHERN_DLT = f"{NORTH_FHIR}/StructureDefinition/dose-limiting-toxicity"
SOUTHERN_DLT = f"{SOUTH_FHIR}/StructureDefinition/dlt"
SOUTHERN_GRADE = f"{SOUTH_URL}/ae-grade"


def seriousness(is_serious):
    return concept(f"{TERMINOLOGY}adverse-event-seriousness", "serious" if is_serious else "non-serious")


def northern_event(
    subject_id,
    term,
    code,
    grade,
    relation,
    onset,
    outcome,
    resolved=None,
    dlt=None,
    expected=None,
    status="completed",
    criteria=(),
    study=None,
    actuality="actual",
    version=1,
    id=None,
    updated=None,
):
    """The northern hospital's research office keeps to the R4 backport of the clinical research profile."""
    c, r4 = OUTCOME[outcome]
    suspect = concept(PHARMACY, "IMP-0417")
    causality = {"url": "causality", "extension": [{"url": "entityRelatedness", "valueCodeableConcept": concept(NCIT, RELATED[relation])}]}
    extension = [
        {"url": BACKPORT + "ae-grade", "valueCodeableConcept": concept(NCIT, GRADE[grade])},
        {"url": BACKPORT + "suspect-entity", "extension": [{"url": "instance", "valueCodeableConcept": suspect}, causality]},
    ]
    for criterion in criteria:
        parts = [
            {"url": "criterionCode", "valueCodeableConcept": concept(NCIT, criterion)},
            {"url": "criterionPresent", "valueBoolean": True},
        ]
        extension.append({"url": BACKPORT + "seriousness-criteria", "extension": parts})
    if expected is not None:
        extension.append({"url": BACKPORT + "expected-in-research-study", "valueBoolean": expected})
    if resolved:
        extension.append({"url": BACKPORT + "resolve-date", "valueDateTime": text_of(resolved)})
    if dlt is not None:
        extension.append({"url": NORTHERN_DLT, "valueBoolean": dlt})
    recorded = updated or (onset if isinstance(onset, datetime) else at(onset, 17)) + timedelta(hours=2)
    body = {
        "extension": extension,
        "modifierExtension": [{"url": BACKPORT + "status", "valueCode": status}],
        "actuality": actuality,
        "event": {**(concept(NCIT, code) if code else {}), "text": term},
        "subject": reference(NORTH, "Patient", subject_id),
        "date": text_of(onset),
        "recordedDate": text_of(recorded),
        "seriousness": seriousness(bool(criteria)),
        # R4 binds outcome to its own codes, the profile to those of the NCI Thesaurus: both are sent.
        "outcome": {"coding": [{"system": NCIT, "code": c}, {"system": f"{TERMINOLOGY}adverse-event-outcome", "code": r4}]},
        "study": [study or study_reference(NORTH)],
    }
    id = id or fresh(NORTH, "ae")
    put(NORTH, "AdverseEvent", id, recorded, body, version)
    return id


def southern_event(subject, term, local, grade, severity, causality, onset, outcome, dlt=None, study=None, subject_id=None, also=()):
    """Base R4, from the ward's incident system: a grade code of its own, severity, and WHO-UMC causality."""
    type, procedure, _, _ = INFUSION[subject.name] if subject else ("Procedure", "P000000", None, None)
    extension = []
    if grade:
        extension.append({"url": CTCAE_GRADE, "valueCodeableConcept": concept(SOUTHERN_GRADE, grade)})
    if dlt is not None:
        extension.append({"url": SOUTHERN_DLT, "valueBoolean": dlt})
    recorded = (onset if isinstance(onset, datetime) else at(onset, 15)) + timedelta(days=1)
    body = {
        "extension": extension or None,
        "actuality": "actual",
        "event": {"coding": [{"system": f"{SOUTH_URL}/incident", "code": local}], "text": term},
        "subject": reference(SOUTH, "Patient", subject.id if subject else subject_id),
        "date": text_of(onset),
        "recordedDate": text_of(recorded),
        "seriousness": seriousness(False),
        "severity": concept(f"{TERMINOLOGY}adverse-event-severity", severity),
        "outcome": concept(f"{TERMINOLOGY}adverse-event-outcome", outcome),
        "suspectEntity": [
            {"instance": reference(SOUTH, *suspect), "causality": [{"assessment": concept(WHO_UMC, held)}]}
            for suspect, held in [*also, ((type, procedure), causality)]
        ],
        "study": [study or study_reference(SOUTH)],
    }
    id = fresh(SOUTH, "AE")
    put(SOUTH, "AdverseEvent", id, recorded, body)
    return id


def southern_serious_event(subject, onset, resolved):
    """The one that the sponsor's own portal wrote, in the shape of R5 and the R5 research profile."""
    type, procedure, _, _ = INFUSION[subject.name]
    criterion = [
        {"url": "criterionCode", "valueCodeableConcept": concept(NCIT, "C83052", "Hospitalization")},
        {"url": "criterionPresent", "valueBoolean": True},
    ]
    recorded = at(onset, 20, 15)
    body = {
        "extension": [
            {"url": RESEARCH + "ae-grade", "valueCodeableConcept": concept(NCIT, GRADE[2])},
            {"url": RESEARCH + "seriousness-criteria", "extension": criterion},
            {"url": SOUTHERN_DLT, "valueBoolean": False},
        ],
        "status": "completed",
        "actuality": "actual",
        "code": {"coding": [{"system": NCIT, "code": "C146758", "display": "Proteinuria"}], "text": "Proteinuria"},
        "subject": reference(SOUTH, "Patient", subject.id),
        "occurrencePeriod": {"start": text_of(onset), "end": text_of(resolved)},
        "recordedDate": text_of(recorded),
        "seriousness": seriousness(True),
        "outcome": [concept(NCIT, "C49498")],
        "study": [study_reference(SOUTH)],
        "suspectEntity": [
            {"instanceReference": reference(SOUTH, type, procedure), "causality": {"entityRelatedness": concept(NCIT, RELATED["unlikely"])}}
        ],
        "expectedInResearchStudy": True,
    }
    id = fresh(SOUTH, "AE")
    put(SOUTH, "AdverseEvent", id, recorded, body)
    return id


def events():
    of = {subject.name: subject for subject in SUBJECTS}
    later = lambda name, days: of[name].dosed + timedelta(days=days)
    end = {name: infusion[3] for name, infusion in INFUSION.items()}

    # Published: slow speech right after the infusion of the high dose, grade 1, gone the next day, possibly related, met DLT.
    speech = dict(
        term="Slow speech", code="C143702", grade=1, relation="possibly", onset=end["S09"] + timedelta(minutes=10), dlt=True, expected=False
    )
    id = northern_event(of["S09"].id, outcome="recovering", status="in-progress", **speech)
    northern_event(of["S09"].id, outcome="resolved", resolved=later("S09", 1), version=2, id=id, updated=at(later("S09", 1), 11), **speech)
    # Published: bradyphrenia after the infusion of the high dose, grade 1, treatment-related. Not published: that it was no DLT.
    southern_event(of["S11"], "Bradyphrenia", "N-217", "L1", "mild", "possible", end["S11"] + timedelta(hours=5), "resolved", dlt=False)
    # Published: proteinuria in the middle dose, serious though grade 2, unlikely related.
    admitted, discharged = later("S06", 112), later("S06", 119)
    southern_serious_event(of["S06"], admitted, discharged)
    stay(SOUTH, of["S06"].id, at(admitted, 14), at(discharged, 10), "IMP", "EM")
    southern_urine(of["S06"], at(admitted, 15), 2900)
    southern_creatinine(of["S06"], admitted, at(admitted, 15), of["S06"].egfr["W0"] * 0.88)

    # Invented: events that are neither serious nor related.
    northern_event(of["S01"].id, "Common cold", None, 1, "not", later("S01", 33), "resolved", later("S01", 41), dlt=False, expected=False)
    northern_event(
        of["S05"].id, "Constipation", None, 1, "unlikely", later("S05", 9), "resolved", later("S05", 15), dlt=False, expected=True
    )
    northern_event(of["S12"].id, "Dizziness", None, 2, "not", at(later("S12", 87), 6, 30), "resolved", later("S12", 88))
    southern_event(of["S02"], "Hypertension, worse", "C-031", "L2", "moderate", "unlikely", later("S02", 60), "ongoing", dlt=False)
    # Held for the work of another drug, and hardly of the infusion.
    losartan = (("Medication", "LOSA50"), "probably-likely")
    southern_event(
        of["S08"], "Potassium raised", "M-112", "L1", "mild", "unlikely", later("S08", 141), "resolved", dlt=False, also=[losartan]
    )
    # A routine entry: nobody graded it.
    southern_event(of["S10"], "Headache", "N-101", None, "mild", "unlikely", later("S10", 52), "resolved")

    # Invented: what must not be counted.
    label = "Wrong label on the infusion bag, seen before use"
    unused = dict(criteria=["C82521"], actuality="potential")
    northern_event(of["S03"].id, label, None, 3, "related", at(of["S03"].dosed, 9, 50), "resolved", **unused)
    mistaken = dict(criteria=["C82521"], dlt=True, status="entered-in-error")
    northern_event(of["S07"].id, "Rash", None, 2, "related", later("S07", 20), "ongoing", **mistaken)
    other_study = {"reference": "ResearchStudy/iron-registry", "display": "Iron registry"}
    northern_event(of["S07"].id, "Nausea", None, 1, "possibly", later("S07", 100), "resolved", study=other_study)
    northern_event(of["S01"].id, "Faintness at blood drawing", None, 1, "not", of["S01"].dosed - timedelta(days=15), "resolved")
    northern_event("1030", "Hypoglycemia", None, 3, "possibly", date(2023, 9, 2), "resolved", criteria=["C83052"], study=other_study)
    elsewhere = dict(study=OTHER_TRIAL, subject_id="50060001")
    southern_event(None, "Fever", "G-004", "L2", "moderate", "possible", date(2023, 10, 1), "resolved", **elsewhere)


def bystanders():
    """Two who never entered: one failed the screening, one is in another trial."""
    patient(NORTH, "1030", "Mallow", "female", date(1975, 1, 12))
    mallow = Subject("N", NORTH, "1030", "Mallow", "female", "1975-01-12", "low", "2023-09-20", 52.0, [], [])
    for days in (140, 16):
        on = mallow.dosed - timedelta(days=days)
        northern_creatinine(mallow, on, at(on, 9, 5), mallow.egfr["W0"])
    body = {
        "status": "ineligible",
        "period": {"start": "2023-09-04", "end": "2023-09-06"},
        "study": study_reference(NORTH),
        "individual": reference(NORTH, "Patient", "1030"),
    }
    put(NORTH, "ResearchSubject", fresh(NORTH, "rs"), at(date(2023, 9, 6), 12), body)
    patient(SOUTH, "50060001", "Nettle", "male", date(1966, 6, 6))
    body = {
        "status": "on-study",
        "period": {"start": "2023-08-01"},
        "study": OTHER_TRIAL,
        "individual": reference(SOUTH, "Patient", "50060001"),
        "actualArm": "A",
    }
    put(SOUTH, "ResearchSubject", fresh(SOUTH, "rs"), at(date(2023, 8, 1), 12), body)


def noise():
    """Treatments and diagnoses that mean nothing here, or that were taken back."""
    of = {subject.name: subject for subject in SUBJECTS}
    body = {
        "status": "completed",
        "medicationCodeableConcept": concept(PHARMACY, "EPO-4000", "Epoetin"),
        "subject": reference(NORTH, "Patient", of["S05"].id),
        "effectiveDateTime": text_of(at(of["S05"].dosed + timedelta(days=70), 10)),
    }
    put(NORTH, "MedicationAdministration", fresh(NORTH, "ma"), at(of["S05"].dosed + timedelta(days=70), 10, 5), body)
    body = {
        "status": "completed",
        "code": {"coding": [{"system": SOUTHERN_PROCEDURE, "code": "US-KIDNEY"}], "text": "Renal ultrasound"},
        "subject": reference(SOUTH, "Patient", of["S06"].id),
        "performedDateTime": text_of(of["S06"].dosed + timedelta(days=113)),
    }
    put(SOUTH, "Procedure", fresh(SOUTH, "P"), at(of["S06"].dosed + timedelta(days=113), 16), body)
    dialysis = concept("http://snomed.info/sct", "302497006", "Haemodialysis")
    condition(SOUTH, of["S10"].id, dialysis, "2023-02-01", "active", "refuted")
    condition(NORTH, of["S03"].id, concept("http://hl7.org/fhir/sid/icd-10-cm", "Z99.2"), "2022-12-01", None, "entered-in-error")
    # A urine protein alone, without its creatinine: no ratio can be made of it.
    drawn = at(of["S08"].dosed + timedelta(days=200), 9)
    observation(
        SOUTH,
        of["S08"].id,
        {"coding": [{"system": SOUTHERN_LAB, "code": "U-TP"}]},
        drawn,
        {"value": 410, "unit": "mg/dl"},
        fresh(SOUTH, "L2"),
        drawn + timedelta(hours=5),
        accession=fresh(SOUTH, "A23-"),
    )
    # An unplanned stay that no event explains: a candidate, which a person has to look at.
    admitted = of["S05"].dosed + timedelta(days=203)
    stay(NORTH, of["S05"].id, at(admitted, 22), at(admitted + timedelta(days=2), 10), "IMP", "EM")


# --- files -----------------------------------------------------------------------------------------------------------


def line(resource):
    return json.dumps(resource, ensure_ascii=False, separators=(",", ":")) + "\n"


def write(folder):
    for site, types in written.items():
        (folder / site).mkdir(parents=True, exist_ok=True)
        for type, resources in types.items():
            (folder / site / f"{type}.ndjson").write_text("".join(map(line, resources)), encoding="utf-8", newline="\n")
    bundle = {"resourceType": "Bundle", "type": "collection", "timestamp": "2024-11-04T06:00:00+08:00", "entry": southern_bundle}
    entries = ",\n".join(line(entry).rstrip() for entry in bundle.pop("entry"))
    text = line(bundle).rstrip()[:-1] + ',"entry":[\n' + entries + "\n]}\n"
    (folder / SOUTH / "laboratory-since-2024-08.json").write_text(text, encoding="utf-8", newline="\n")


# --- what was published, asserted from the files ---------------------------------------------------------------------


def read(folder, site):
    """The newest version of every resource of a site, by type and id."""
    newest = {}
    for path in sorted((folder / site).iterdir()):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ndjson":
            resources = [json.loads(line) for line in text.splitlines()]
        else:
            resources = [entry["resource"] for entry in json.loads(text)["entry"]]
        for resource in resources:
            assert resource["meta"]["tag"] == [SYNTHETIC]
            key = resource["resourceType"], resource["id"]
            if key not in newest or int(resource["meta"]["versionId"]) > int(newest[key]["meta"]["versionId"]):
                newest[key] = resource
    return newest


def egfr_of(subject, resource):
    on = date.fromisoformat(resource["effectiveDateTime"][:10])
    value = resource["valueQuantity"]["value"] / (UMOL_L_PER_MG_DL if subject.site == SOUTH else 1)
    return egfr_2021(value, subject.sex, years(subject.born, on))


def upcr_of(subject, of_site, drawn):
    own = [
        r
        for (type, _), r in of_site.items()
        if type == "Observation" and r["effectiveDateTime"] == drawn and r["subject"]["reference"].endswith("/" + subject.id)
    ]
    quantity = lambda code: next(r["valueQuantity"] for r in own if any(coding["code"] == code for coding in r["code"]["coding"]))
    if subject.site == NORTH:
        return quantity("2890-2")["value"]
    creatinine = quantity("U-KREA")
    mg_dl = creatinine["value"] if creatinine["unit"] == "mg/dl" else creatinine["value"] * 1000 / UMOL_L_PER_MG_DL
    return quantity("U-TP")["value"] / mg_dl * 1000


def wilcoxon_p(differences):
    """Two-sided exact p of the signed-rank test, by all 2^n signs; no zeros and no ties here."""
    ranks = {d: rank for rank, d in enumerate(sorted(differences, key=abs), 1)}
    assert 0 not in differences and len({abs(d) for d in differences}) == len(differences)
    n, plus = len(differences), sum(rank for d, rank in ranks.items() if d > 0)
    extreme = min(plus, n * (n + 1) / 2 - plus)
    sums = [sum(rank for rank, sign in zip(range(1, n + 1), signs) if sign) for signs in itertools.product((0, 1), repeat=n)]
    return min(1.0, 2 * sum(total <= extreme for total in sums) / len(sums))


def assert_published(folder):
    sites = {site: read(folder, site) for site in (NORTH, SOUTH)}
    assert {arm: sum(s.arm == arm for s in SUBJECTS) for arm in PUBLISHED["arms"]} == PUBLISHED["arms"]
    percent, upcr = {}, {}
    low, high = PUBLISHED["egfr_eligible"]
    for subject in SUBJECTS:
        of_site = sites[subject.site]
        own = lambda type: [
            r
            for (t, _), r in of_site.items()
            if t == type and (r.get("subject") or r.get("individual"))["reference"].endswith("/" + subject.id)
        ]
        results = {visit: of_site["Observation", DRAWS[subject.name, visit]] for visit in VISITS}
        assert all(result["status"] in ("final", "corrected") for result in results.values())
        egfr = {visit: egfr_of(subject, result) for visit, result in results.items()}
        for visit in ("W24", "W48"):
            percent[subject.name, visit] = (egfr[visit] / egfr["W0"] - 1) * 100
        upcr[subject.name] = {visit: upcr_of(subject, of_site, results[visit]["effectiveDateTime"]) for visit in VISITS}
        # Eligible at screening: age, eGFR clear of both boundary bands, below 60 for 90 days and more, and never 60.
        codes = {"2160-0", "14682-9", "B-KREA"}
        serum = [r for r in own("Observation") if codes & {coding["code"] for coding in r["code"]["coding"]}]
        before = sorted(
            (r["effectiveDateTime"][:10], egfr_of(subject, r)) for r in serum if r["effectiveDateTime"][:10] < text_of(subject.dosed)
        )
        screened = date.fromisoformat(before[-1][0])
        assert PUBLISHED["age_eligible"][0] <= years(subject.born, screened) <= PUBLISHED["age_eligible"][1]
        assert all(low + 0.5 < value < high - 0.5 for value in (before[-1][1], egfr["W0"]))
        assert all(value < 60 for _, value in before) and (screened - date.fromisoformat(before[0][0])).days >= 90
        assert abs(egfr["W0"] / before[-1][1] - 1) < 0.05
        assert not [
            r
            for r in own("Condition")
            if r["verificationStatus"]["coding"][0]["code"] == "confirmed" and r["code"]["coding"][0]["code"] in ("302497006", "Z99.2")
        ]
        for visit, days in ((visit, weeks * 7) for visit, weeks in PUBLISHED["weeks"].items()):
            assert abs((DAYS[subject.name, visit] - subject.dosed).days - days) <= {0: 1, 14: 1, 28: 2, 84: 3}.get(days, 5)
        subject.baseline = egfr["W0"]
    for visit, count in PUBLISHED["egfr_increased"].items():
        changes = [percent[s.name, visit] for s in SUBJECTS]
        assert sum(change > 0 for change in changes) == count and all(abs(change) > 1 for change in changes), (visit, changes)
    risen = {s.name for s in SUBJECTS if percent[s.name, "W24"] > 20}
    assert all(abs(percent[s.name, "W24"] - 20) > 0.3 for s in SUBJECTS)
    assert {s.name for s in SUBJECTS if s.baseline >= 30} <= risen
    assert sum(s.baseline < 30 for s in SUBJECTS if s.name in risen) == PUBLISHED["rise_above_20_percent_at_w24_below_30"]
    # One who would be in the other stratum, and one who would be a responder, if anybody rounded.
    assert any(29.5 <= s.baseline < 30 and s.name not in risen for s in SUBJECTS)
    assert any(19 < percent[s.name, "W24"] < 20 for s in SUBJECTS)
    p = {visit: wilcoxon_p([upcr[s.name][visit] - upcr[s.name]["W0"] for s in SUBJECTS]) for visit in ("W24", "W48")}
    assert all(value > 0.1 for value in p.values()), p

    events = {site: [r for (type, _), r in of_site.items() if type == "AdverseEvent"] for site, of_site in sites.items()}
    arm_of = {(s.site, s.id): s.arm for s in SUBJECTS}
    extension = lambda r, url: next((e for e in r.get("extension", []) if e["url"] == url), {})
    counted = []
    for site, of_type in events.items():
        for r in of_type:
            patient_id = r["subject"]["reference"].rsplit("/", 1)[1]
            status = next((e["valueCode"] for e in r.get("modifierExtension", [])), r.get("status", "completed"))
            is_ours = r["study"][0] == study_reference(site)
            started = next(s.dosed for s in SUBJECTS if (s.site, s.id) == (site, patient_id)) if (site, patient_id) in arm_of else None
            onset = (r.get("date") or r["occurrencePeriod"]["start"])[:10]
            if started and is_ours and status == "completed" and r["actuality"] == "actual" and onset >= text_of(started):
                counted.append((arm_of[site, patient_id], r))
    grade_codes = {GRADE[1]: 1, GRADE[2]: 2, "L1": 1, "L2": 2}

    def axes(r):
        grade = next(
            (
                e["valueCodeableConcept"]["coding"][0]["code"]
                for e in r.get("extension", [])
                if e["url"] in (BACKPORT + "ae-grade", RESEARCH + "ae-grade", CTCAE_GRADE)
            ),
            None,
        )
        suspect = extension(r, BACKPORT + "suspect-entity")
        if suspect:
            relation = suspect["extension"][1]["extension"][0]["valueCodeableConcept"]["coding"][0]["code"]
        else:
            causality = r["suspectEntity"][-1]["causality"]
            relation = (
                causality["entityRelatedness"]["coding"][0]["code"]
                if isinstance(causality, dict)
                else causality[0]["assessment"]["coding"][0]["code"]
            )
        dlt = any(extension(r, url).get("valueBoolean") for url in (NORTHERN_DLT, SOUTHERN_DLT))
        return grade_codes.get(grade), relation, r["seriousness"]["coding"][0]["code"] == "serious", dlt

    axes_of = [(arm, *axes(r)) for arm, r in counted]
    related = {"possible", "probably-likely", "certain", RELATED["possibly"], RELATED["related"]}
    assert [(arm, grade) for arm, grade, relation, _, _ in axes_of if relation in related] == [("high", 1), ("high", 1)]
    assert [(arm, grade, relation) for arm, grade, relation, is_serious, _ in axes_of if is_serious] == [("middle", 2, RELATED["unlikely"])]
    assert [(arm, grade) for arm, grade, _, _, dlt in axes_of if dlt] == [("high", 1)]
    assert not any("fatal" in json.dumps(r["outcome"]) or "C48275" in json.dumps(r["outcome"]) for _, r in counted)
    return p, percent, counted


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for subject in SUBJECTS:
        patient(subject.site, subject.id, subject.given, subject.sex, subject.born)
        conditions(subject)
        results(subject)
        enrolment(subject)
        infusion(subject)
    events()
    bystanders()
    noise()
    write(folder)
    p, percent, counted = assert_published(folder)
    resources = sum(len(r) for types in written.values() for r in types.values()) + len(southern_bundle)
    print(f"{len(SUBJECTS)} subjects, {resources} resources, {len(counted)} events that count")
    print("exact Wilcoxon signed-rank p of UPCR:", ", ".join(f"{visit} {value:.3f}" for visit, value in p.items()))
    for subject in SUBJECTS:
        changes = " ".join(f"{visit} {percent[subject.name, visit]:+.1f} %" for visit in ("W24", "W48"))
        print(f"{subject.name} {subject.arm:6} baseline {subject.baseline:.1f} mL/min/1.73 m2, {changes}")


if __name__ == "__main__":
    main()
