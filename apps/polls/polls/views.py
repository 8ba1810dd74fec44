"""Ask, vote (once per session and question), import questions from a text file, export the results as a stream."""

import csv
from collections.abc import Iterator

from django.db import transaction
from django.db.models import F
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from apps.polls.polls.models import Choice, Question

#: Bytes of a file of questions.
MAX_IMPORT = 1024 * 1024


@require_GET
def index(request: HttpRequest) -> HttpResponse:
    questions = Question.objects.prefetch_related("choices")[:50]
    return render(request, "polls/index.html", {"questions": questions, "voted": request.session.get("voted", [])})


@require_POST
def ask(request: HttpRequest) -> HttpResponse:
    choices = [line.strip() for line in request.POST.get("choices", "").splitlines() if line.strip()]
    text = request.POST.get("text", "").strip()
    if not _store(text, choices):
        return HttpResponseBadRequest("A question and at least two answers, please.\n", content_type="text/plain")
    return redirect("index")


@require_POST
def vote(request: HttpRequest, question_id: int) -> HttpResponse:
    question = get_object_or_404(Question, pk=question_id)
    voted = request.session.setdefault("voted", [])
    if question_id not in voted:
        choice = get_object_or_404(question.choices, pk=_number(request.POST.get("choice", "")))
        Choice.objects.filter(pk=choice.pk).update(votes=F("votes") + 1)
        voted.append(question_id)
        request.session.modified = True
    return redirect("index")


@require_POST
def import_questions(request: HttpRequest) -> HttpResponse:
    """A text file: a line is a question and its answers, separated by `|`."""
    upload = request.FILES.get("file")
    if upload is None or upload.size > MAX_IMPORT:
        return HttpResponseBadRequest(f"A file of at most {MAX_IMPORT} bytes, please.\n", content_type="text/plain")
    stored = 0
    with transaction.atomic():
        for line in upload:
            text, *choices = [part.strip() for part in line.decode("utf-8", "replace").split("|")]
            stored += _store(text, choices)
    return HttpResponse(f"{stored} questions\n", content_type="text/plain")


@require_GET
def results(request: HttpRequest) -> StreamingHttpResponse:
    class Line:
        def write(self, text: str) -> str:
            return text

    def rows() -> Iterator[str]:
        writer = csv.writer(Line())
        yield writer.writerow(["question", "answer", "votes"])
        for choice in Choice.objects.select_related("question").iterator(chunk_size=200):
            yield writer.writerow([choice.question.text, choice.text, choice.votes])

    return StreamingHttpResponse(rows(), content_type="text/csv; charset=utf-8")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _store(text: str, choices: list[str]) -> bool:
    if not text or len(text) > 200 or len(choices) < 2 or any(not 0 < len(choice) <= 100 for choice in choices):
        return False
    with transaction.atomic():
        question = Question.objects.create(text=text)
        Choice.objects.bulk_create(Choice(question=question, text=choice) for choice in choices)
    return True
