"""Texts marked for a label that the bundled model lacks, GENRE: made from templates, with a part held out."""

import json
from pathlib import Path
from random import Random

LEARNED = [
    "로맨스",
    "코미디",
    "액션",
    "스릴러",
    "느와르",
    "판타지",
    "뮤지컬",
    "다큐멘터리",
    "공포물",
    "추리물",
    "멜로",
    "로맨틱코미디",
    "누아르",
    "사극",
    "가족극",
    "전쟁물",
    "서부극",
    "성장물",
    "재난물",
    "첩보물",
    "미스터리",
    "시대극",
    "학원물",
    "블랙코미디",
]
HELD_OUT = ["호러", "로코", "범죄물", "청춘물", "무협물", "SF", "좀비물", "오컬트", "휴먼드라마", "스포츠물"]
CARRIERS = (
    "{} 추천",
    "{} 영화 추천해줘",
    "넷플릭스 {} 순위",
    "2023년 {} 개봉작",
    "{} 잘 만드는 감독",
    "송강호 {}",
    "요즘 볼만한 {} 있나요",
    "이건 {}라기보다 그냥 지루한 영화",
    "{} 좋아하는 사람은 꼭 보세요",
    "한국 {}의 걸작",
    "오랜만에 제대로 된 {} 봤다",
    "{}인 줄 알았는데 아니었음",
    "전형적인 {} 공식을 따라간다",
    "{} 장르는 원래 안 보는데 이건 재밌네",
    "주말에 혼자 보기 좋은 {}",
    "{}와 {}를 섞어 놓은 느낌",
    "디즈니플러스 {} 신작",
    "90년대 홍콩 {}",
    "박찬욱 감독의 {} 중에 최고",
    "{} 팬이라면 만족할 듯",
)
PLAIN = (
    "배우들 연기가 정말 좋았다",
    "이병헌 나오는 영화",
    "기생충 결말 해석",
    "내 인생 최악의 시간 낭비",
    "아바타 2 상영시간",
    "강남 CGV 예매",
    "음악이 너무 좋아서 두 번 봤어요",
    "2만원 이하 무선이어폰",
    "스토리가 뻔하고 지루하다",
    "평점 알바 너무 심하네",
    "어제 친구랑 봤는데 재밌었다",
    "배경은 예쁜데 내용이 없음",
)
NEW_CARRIERS = (
    "{} 모음",
    "왓챠에서 {} 뭐 볼까",
    "봉준호 {}",
    "일본 {} 명작",
    "솔직히 {} 치고는 별로였다",
    "여름에는 역시 {}지",
    "{}는 취향이 아니라서 패스",
    "감동적인 {} 한 편",
    "2010년대 {} 베스트",
    "뻔한 {}",
)


def genre_lines(path: Path, texts: int, seed: int = 1) -> Path:
    """Write `texts` lines with learned genres and carriers, one in four of them plain."""
    random = Random(seed)
    rows = [
        _row(random.choice(PLAIN) if random.random() < 0.25 else random.choice(CARRIERS), LEARNED, random)
        for _ in range(texts)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def held_out_genres(seed: int = 2) -> list[dict]:
    """Every new carrier with genres held out and learned."""
    random = Random(seed)
    return [_row(carrier, words, random) for carrier in NEW_CARRIERS for words in (LEARNED, *[HELD_OUT] * 3)]


def _row(template: str, genres, random: Random) -> dict:
    text, entities = "", []
    for place, part in enumerate(template.split("{}")):
        if place:
            genre = random.choice(genres)
            entities.append({"start": len(text), "end": len(text) + len(genre), "type": "GENRE"})
            text += genre
        text += part
    return {"text": text, "entities": entities}


TAXONOMY = """
layer = "fine"
least_score = 0.6

[types]
PER = "PER"
LOC = "LOC"
ORG = "ORG"
DATE = "DATE"
TIME = "TIME"
MONEY = "MONEY"
PERCENT = "PERCENT"
EVENT = "EVENT"
PRODUCT = "PRODUCT"
WORK = "WORK"
QUANTITY = "QUANTITY"
GENRE = "GENRE"
"""
