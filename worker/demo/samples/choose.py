"""Choose the demo's reviews out of NSMC: `python worker/demo/samples/choose.py reviews.jsonl.gz > reviews.jsonl`.

The input has a review a line: review_id, movie_id, rating, date (yy.mm.dd) and text. The choice is the same every time.
"""

import gzip
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

SEED: Final = 20
NAMED, DATED, ANY = 260, 120, 120  # reviews that name film people or films, that hold figures, and of any kind

FILM_NAMES: Final = re.compile(
    "송강호|이병헌|최민식|설경구|하정우|황정민|전도연|김혜수|원빈|강동원|정우성|이정재|유해진|류승룡|조인성|손예진|공효진|"
    "봉준호|박찬욱|김지운|임권택|홍상수|류승완|이창동|강우석|장진|나홍진|놀란|스필버그|타란티노|팀버튼|미야자키|성룡|"
    "이연걸|견자단|주성치|장국영|양조위|톰 ?크루즈|디카프리오|조니 ?뎁|브래드 ?피트|맷 ?데이먼|키아누|니콜라스|스칼렛|"
    "올드보이|살인의 ?추억|괴물|왕의 ?남자|인셉션|다크나이트|매트릭스|타이타닉|해리포터|반지의 ?제왕|어벤져스|아이언맨|"
    "트랜스포머|터미네이터|에일리언|스타워즈|인터스텔라|겨울왕국|토이스토리|슈렉|디즈니|픽사|지브리|마블|헐리우드|할리우드"
)
FIGURES: Final = re.compile(
    r"\d+ ?(?:년|월|일|시|분|원|만원|억|%|퍼센트|살|번|편|명|시간)|"
    r"서울|부산|제주|강남|홍대|일본|미국|프랑스|CGV|롯데시네마|크리스마스|추석"
)
UNFIT: Final = re.compile(
    # Coarse words and their usual disguises, bodies and sex, hatred of groups, politics, and ways to reach a person.
    r"씨[0-9\W]*[발바벌빠]|시[0-9\W]*발|[ㅅㅆ]\s?ㅂ|ㅂ\s?ㅅ|ㅈ\s?ㄹ|ㅈ\s?ㄴ|병[0-9\W]*신|븅|존나|졸라|좆|조낸|지랄|새[0-9\W]*끼|쉐끼|개같|"
    r"개[독년놈]|[년놈](?:들|아|이|은|$|\W)|미친|또라이|쓰레기|찌질|꼴통|등신|바보|멍청|돼지|못생|닥쳐|꺼져|뒤져|뒈|죽어라|"
    r"죽여|자살|강간|성폭|섹스|야동|포르노|변태|가슴|벗|몸매|야한|정사|에로|동성애|게이|레즈|장애|흑인|쪽바리|쪽발|짱깨|"
    r"짱개|중국놈|왜놈|일베|좌빨|좌파|우파|우익|빨갱|수꼴|종북|홍어|전라도|경상도|김치녀|된장녀|노무현|이명박|박근혜|"
    r"전두환|박정희|광주|세월호|새누리|한나라|민주당|알바|기독교|개신|이슬람|목사|테러|@|https?:|www|\d{3,4}-\d{4}|"
    r"카톡|연락|전화"
)
LEFT_OUT: Final = (  # drawn, read, and found unkind to someone
    "8457793 5933344 9341562 3528939 7510937 9119367 4007943 8344921 7518604 9519243 5289473 9467191 10086153 "
    "1395000 143857 490444 1935683 9912292 9903411 9563947 9816726 9744019 3553884 8881843 8164263 9823619 "
    "4356997 8367401 2275731 6185209 1932612 4019275"
)


def _record(review: dict[str, Any]) -> dict[str, Any]:
    year, month, day = review["date"].split(".")
    return {
        "review_id": review["review_id"],
        "movie_id": review["movie_id"],
        "rating": review["rating"],
        "text": review["text"],
        "written_at": f"20{year}-{month}-{day}T00:00:00+09:00",
    }


def _fits(text: str) -> bool:
    hangul = sum("가" <= character <= "힣" for character in text)
    return 14 <= len(text) <= 130 and hangul >= 0.6 * len(text) and UNFIT.search(text) is None


def choose(reviews: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Draw the three kinds of reviews and shuffle them into one another."""
    chance = random.Random(SEED)
    fit = [review for review in reviews if _fits(review["text"])]
    chance.shuffle(fit)
    named = [review for review in fit if FILM_NAMES.search(review["text"])][:NAMED]
    taken = {review["review_id"] for review in named}
    dated = [review for review in fit if review["review_id"] not in taken and FIGURES.search(review["text"])][:DATED]
    taken |= {review["review_id"] for review in dated}
    rest = [review for review in fit if review["review_id"] not in taken][:ANY]
    chosen = named + dated + rest
    left_out = frozenset(LEFT_OUT.split())
    chance.shuffle(chosen)
    yield from (_record(review) for review in chosen if review["review_id"] not in left_out)


def main(path: Path) -> None:
    """Print the choice as JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for record in choose([json.loads(line) for line in lines]):
            print(json.dumps(record, ensure_ascii=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
