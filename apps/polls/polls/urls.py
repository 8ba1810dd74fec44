from django.urls import path

from apps.polls.polls import views

urlpatterns = [
    path("", views.index, name="index"),
    path("ask", views.ask, name="ask"),
    path("import", views.import_questions, name="import"),
    path("results.csv", views.results, name="results"),
    path("<int:question_id>/vote", views.vote, name="vote"),
]
