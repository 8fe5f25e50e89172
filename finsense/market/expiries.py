"""Tell on which days the NIFTY contracts of NSE expire, as it was known on a given day.

The days, with their sources:

- Monthly contracts since NIFTY futures began on 12 Jun 2000: the last Thursday of the month; of contracts that expire
  on or after 1 Sep 2025 the last Tuesday. Single stocks, BANKNIFTY and the other indices share the day.
- Weekly NIFTY options since 11 Feb 2019: every Thursday; from 1 Sep 2025 every Tuesday (last Thursday 28 Aug, first
  Tuesday 2 Sep 2025). In the week of the monthly expiry the monthly contract takes the place of the weekly one.
- On a holiday, Muhurat days among them: the trading day before. When the exchange closed on the very day, unannounced
  before the last session (28 Jul 2005, 27 Nov 2008): the trading day after.

Sources: NSE contract specifications; SEBI/HO/MRD/TPD-1/P/CIR/2025/76 of 26 May 2025 with NSE/FAOP/68589 of 17 Jun 2025
and the NSE circular of 23 Jun 2025 (Tuesdays, in time for every count here); Bloomberg and Livemint on the start of the
weekly options (18 Dec 2018, 11 Feb 2019); domain-b.com 28 Jul 2005 (postponed expiry; that of Nov 2008 by analogy). The
plan to move to Mondays from 4 Apr 2025 (NSE/FAOP/66938 of 4 Mar 2025) was withdrawn on 27 Mar 2025, before it touched a
count.

Not covered: weekly contracts of BANKNIFTY (May 2016 to 13 Nov 2024; on Wednesdays since 4 Sep 2023), FINNIFTY and
MIDCPNIFTY, whose days differ; the monthly expiry of these indices while it had another day than NIFTY's; contracts of
BSE, of currencies and of commodities.
"""

import calendar
import datetime as dt

from finsense.market.outlook import late_notices, outlook

_TUESDAY, _THURSDAY = 1, 3
FIRST_MONTHLY = dt.date(2000, 6, 12)
FIRST_WEEKLY = dt.date(2019, 2, 11)
TUESDAYS_FROM = dt.date(2025, 9, 1)


def next_monthly_expiry(date: dt.date) -> dt.date | None:
    """The next monthly expiry day on or after a date, as known on its morning; None before there were contracts.

    Raises:
        CalendarError: the date is outside the calendar.
    """
    if date < FIRST_MONTHLY:
        return None
    year, month = date.year, date.month
    while True:
        expiry = _moved(_last_weekday(year, month), date)
        if expiry >= date:
            return expiry
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)


def next_weekly_expiry(date: dt.date) -> dt.date | None:
    """The next day on or after a date on which weekly or monthly NIFTY options expire; None before weekly ones existed.

    Raises:
        CalendarError: the date is outside the calendar.
    """
    if date < FIRST_WEEKLY:
        return None
    ordinal = date.toordinal()
    while True:
        nominal = dt.date.fromordinal(ordinal)
        if nominal.weekday() == _expiry_weekday(nominal):
            expiry = _moved(nominal, date)
            if expiry >= date:
                return expiry
        ordinal += 1


def _expiry_weekday(date: dt.date) -> int:
    return _TUESDAY if date >= TUESDAYS_FROM else _THURSDAY


def _last_weekday(year: int, month: int) -> dt.date:
    """The last Thursday or Tuesday of a month."""
    last = dt.date(year, month, calendar.monthrange(year, month)[1])
    return last - dt.timedelta(days=(last.weekday() - _expiry_weekday(last)) % 7)


def _moved(nominal: dt.date, known_on: dt.date) -> dt.date:
    """The day on which a contract of that nominal day expires, as known on a morning."""
    before, after = outlook(known_on).full_days_around(nominal)
    notice = late_notices().get(nominal)
    if before != nominal and notice is not None and notice.announced >= before:
        return after
    return before
