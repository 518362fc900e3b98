"""Says when cron expressions are due, by croniter over civil time and zoneinfo alone.

    oracle.py             for every zone: its changes of offset, and a hash of what is due around them, by rule
    oracle.py ZONE EXPRESSION GAP OVERLAP FROM TO     the seconds at which it is due, FROM < t <= TO
"""
import sys, zoneinfo
from datetime import datetime, timedelta, timezone
from croniter import croniter

EXPRESSIONS = ["30 2 * * *", "*/20 * * * *", "0 0 * * 1", "15 1,23 * * 0,6", "59 59 * * * *"]
RULES = [(gap, overlap) for gap in ("shift", "skip") for overlap in ("first", "last", "both")]
FIRST, LAST = datetime(2005, 1, 1, tzinfo=timezone.utc), datetime(2037, 12, 20, tzinfo=timezone.utc)
REACH = 10_000  # seconds around each change
EPOCH = datetime(1970, 1, 1)


def seconds(civil, offset):
    return int(((civil - offset) - EPOCH).total_seconds())


def due(zone, expression, start, end):
    """Every civil time that fits around the window, with the instants that each rule makes of it."""
    fields = expression.split()
    if len(fields) == 6:  # croniter has the seconds last
        expression = " ".join(fields[1:] + fields[:1])
    first, last = (datetime.fromtimestamp(t, zone).replace(tzinfo=None) for t in (start, end))
    pad = abs((last - first) - timedelta(seconds=end - start)) + timedelta(hours=1)
    civil, until = min(first, last) - pad, max(first, last) + pad
    times = croniter(expression, civil)
    while (civil := times.get_next(datetime)) <= until:
        early, late = (civil.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
        if early == late:
            yield "plain", seconds(civil, early), None
        elif early < late:  # left out: by the offset before, it comes as much later as the clock was set forward
            yield "gap", seconds(civil, early), None
        else:
            yield "twice", seconds(civil, early), seconds(civil, late)


def settle(found, gap, overlap, start, end):
    out = set()
    for what, first, last in found:
        if what == "plain" or (what == "gap" and gap == "shift"):
            out.add(first)
        elif what == "twice":
            out.update({"first": [first], "last": [last], "both": [first, last]}[overlap])
    return sorted(t for t in out if start < t <= end)


def changes(zone):
    at, found = FIRST, []
    while at < LAST:
        to = at + timedelta(days=4)
        if at.astimezone(zone).utcoffset() != to.astimezone(zone).utcoffset():
            low, high = int(at.timestamp()), int(to.timestamp())
            while high - low > 1:
                middle = (low + high) // 2
                same = datetime.fromtimestamp(middle, zone).utcoffset() == at.astimezone(zone).utcoffset()
                low, high = (middle, high) if same else (low, middle)
            found.append(high)
        at = to
    return found


def main():
    seen = set()
    for name in sorted(zoneinfo.available_timezones()):
        if name.startswith(("posix", "right")) or name in ("localtime", "Factory", "posixrules"):
            continue
        zone = zoneinfo.ZoneInfo(name)
        moments = changes(zone)
        told = (tuple(moments), tuple(datetime.fromtimestamp(t, zone).utcoffset() for t in moments))
        if told in seen:
            continue
        seen.add(told)
        hashes = []
        for expression in EXPRESSIONS:
            sums = {rule: 0 for rule in RULES}
            for moment in moments or [10 ** 9]:
                start, end = moment - REACH, moment + REACH
                found = list(due(zone, expression, start, end))
                for rule in RULES:
                    for t in settle(found, *rule, start, end):
                        sums[rule] = (sums[rule] * 1_000_003 + t) % (2 ** 61 - 1)
            hashes += sums.values()
        print(name, ",".join(map(str, moments)) or "-", ",".join(map(str, hashes)))


if len(sys.argv) > 1:
    _, name, expression, gap, overlap, start, end = sys.argv
    print(*settle(due(zoneinfo.ZoneInfo(name), expression, int(start), int(end)), gap, overlap, int(start), int(end)))
else:
    main()
