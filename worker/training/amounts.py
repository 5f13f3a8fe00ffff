"""Dates, times, sums, shares and counts as people type them into a search box."""

from random import Random
from typing import Final

_NUMERALS: Final = ("한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉", "열", "열두")
_COUNTERS: Final = "명 편 개 권 번 마리 잔 장 인용 회 화 부작 위 인치 키로 kg g ml 리터 평 기가 GB cm 대 켤레"
_DAYS: Final = (
    "오늘|내일|어제|모레|이번주|이번 주말|주말|다음주|다음 주|지난주|이번달|다음달|"
    "올해|작년|내년|재작년|금요일|토요일|일요일|월요일|이번주 토요일|다음주 금요일|"
    "크리스마스|추석|설날|설 연휴|추석 연휴|여름방학|겨울방학|올 여름|올여름|지난달|"
    "연말|한글날|발렌타인데이|조선시대|일제강점기|고려시대|5월 5일|세기말|21세기|"
    "19세기|70년대 후반|2000년대 초반"
)
_SUMS: Final = "만원|천원|오천원|삼만원|백만원|십만원|이만원|1억|100억|천만원|5백원|10만|100만원"


def date(random: Random) -> str:
    """A day, month, year, decade, season or a word such as 작년."""
    year, month, day = random.randint(1950, 2026), random.randint(1, 12), random.randint(1, 31)
    shapes = (
        lambda: f"{year}년",
        lambda: f"{year}",
        lambda: f"{year}년도",
        lambda: f"{random.choice((1960, 1970, 1980, 1990, 2000, 2010, 2020))}년대",
        lambda: f"{random.choice((60, 70, 80, 90))}년대",
        lambda: f"{month}월",
        lambda: f"{month}월 {day}일",
        lambda: f"{month}월{day}일",
        lambda: f"{year}년 {month}월",
        lambda: f"{year}년 {random.choice(('상반기', '하반기', '여름', '겨울', '가을', '봄'))}",
        lambda: f"{random.randint(2, 10)}년 전",
        lambda: random.choice(_DAYS.split("|")),
    )
    return random.choice(shapes)()


def time(random: Random) -> str:
    """A time of day or a stretch of hours or minutes."""
    part = random.choice(("밤", "오전", "오후", "아침", "저녁", "새벽", "낮"))
    hour = random.randint(1, 12)
    shapes = (
        lambda: f"{part} {hour}시",
        lambda: f"{part}{hour}시",
        lambda: f"{hour}시",
        lambda: f"{hour}시 반",
        lambda: f"{hour}시 {random.choice((10, 20, 30, 40, 50))}분",
        lambda: f"{random.randint(9, 23)}:{random.choice(('00', '10', '30', '45'))}",
        lambda: f"{random.choice((90, 100, 120, 30, 10))}분",
        lambda: f"{random.randint(1, 4)}시간",
        lambda: part,
    )
    return random.choice(shapes)()


def money(random: Random) -> str:
    """A sum, in figures or words."""
    shapes = (
        lambda: f"{random.randint(1, 90)}만원",
        lambda: f"{random.randint(1, 90)}만 원",
        lambda: f"{random.randint(1, 9)}천원",
        lambda: f"{random.randint(1, 9)}만{random.randint(1, 9)}천원",
        lambda: f"{random.randint(1, 99)}00원",
        lambda: f"{random.randint(1, 99)},{random.choice(('000', '500', '900'))}원",
        lambda: f"{random.randint(10, 99)}000원",
        lambda: f"{random.randint(10, 200)}달러",
        lambda: f"${random.randint(10, 200)}",
        lambda: random.choice(_SUMS.split("|")),
    )
    return random.choice(shapes)()


def percent(random: Random) -> str:
    """A share of a hundred."""
    number = random.choice((5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 99, 100))
    return f"{number}{random.choice(('%', '%', '%', '프로', '퍼센트', ' %'))}"


def quantity(random: Random) -> str:
    """A number with a counter, an age or a rank."""
    shapes = (
        lambda: f"{random.randint(1, 120)}{random.choice(_COUNTERS.split())}",
        lambda: f"{random.choice(_NUMERALS)}{random.choice((' ', ''))}{random.choice(_COUNTERS.split()[:10])}",
        lambda: f"{random.choice((3, 5, 7, 12, 15, 18, 19))}세",
        lambda: f"{random.choice((3, 4, 5, 6, 7, 10, 13))}살",
        lambda: f"{random.choice((10, 20, 30, 40, 50))}대",
        lambda: f"{random.randint(1, 9)}편",
        lambda: f"{random.randint(2, 50)}부작",
        lambda: f"{random.randint(1, 24)}화",
        lambda: f"{random.choice(('천만', '100만', '1000만', '500만'))}",
    )
    return random.choice(shapes)()
